"""Compares the networks that a run compiles with torch on real images, before it states a figure.

Where a layout variant computes something else, the run goes on without it. Where the plain layout
does too, the run ends in an error that names the first layer that differs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cprune_rl.compiler.deploy.build import build_network
from cprune_rl.compiler.deploy.compare_outputs import compare_library, first_wrong_layer
from cprune_rl.compiler.layouts.variants import LayoutVariants, VariantChoice
from cprune_rl.compiler.tuning.network_tuner import NetworkTuner
from cprune_rl.core.output_agreement import OutputAgreement
from cprune_rl.errors import CPruneError, DeviceError, ModelError, last_line
from cprune_rl.pipeline.backends.base import FinishedNetwork
from cprune_rl.pipeline.progress import ProgressLog

__all__ = ["BuiltNetworks", "CompiledCheck"]

_PLAIN = 0  # position of the plain layout in `LayoutVariants.all`


@dataclass(frozen=True, kw_only=True)
class BuiltNetworks:
    """Compiled networks by name, and how their answers agree with torch's."""

    libraries: Mapping[str, Path]
    agreement: Mapping[str, OutputAgreement]

    @property
    def wrong(self) -> str | None:
        """Name of the first network that computes something else; None where all are right."""
        return next((name for name, a in self.agreement.items() if not a.holds), None)


@dataclass(frozen=True, kw_only=True)
class CompiledCheck:
    """Builds networks and compares them with torch.

    Attributes:
        images: that both answer, `(n, channels, height, width)`.
        progress: is told of long parts.
    """

    images: NDArray[np.float32]
    progress: ProgressLog

    def build(
        self, tuner: NetworkTuner, networks: Mapping[str, FinishedNetwork], folder: Path
    ) -> BuiltNetworks:
        """Compile networks in their fastest layouts, and compare each with torch.

        Args:
            tuner: has tuned their tasks.
            networks: by name.
            folder: where libraries are written.

        Raises:
            ModelError: a task has no schedule that runs, or a network's own answers are no numbers.
            DeviceError: a network does not run, or the device is gone.
        """
        folder.mkdir(exist_ok=True)
        libraries = {name: folder / f"{name}.so" for name in networks}
        agreement = {}
        with self.progress.track("Building the networks", len(networks)) as advance:
            for done, (name, network) in enumerate(networks.items(), start=1):
                choice = tuner.choice(network.plan)
                agreement[name] = self._build_one(tuner, network, choice, libraries[name])
                advance(done)
        return BuiltNetworks(libraries=libraries, agreement=agreement)

    def right_variants(
        self, tuner: NetworkTuner, networks: Mapping[str, FinishedNetwork]
    ) -> LayoutVariants:
        """Find the layout variants in which networks compute what torch computes.

        Args:
            tuner: has tuned their tasks.
            networks: by name.

        Returns:
            The tuner's own variants where the fastest layouts of all networks are right.

        Raises:
            ModelError: a network is wrong in the plain layout too.
            DeviceError: the device is gone.
        """
        variants = tuner.variants
        folder = tuner.device.build_folder / "first"
        with _removed_libraries(folder):
            built = self.build(tuner, networks, folder)
            if built.wrong is None:
                return variants
            wrong = networks[built.wrong]
            choice = tuner.choice(wrong.plan)
            reason = self._reason(tuner, wrong, choice, built.agreement[built.wrong])
            self.require_plain(tuner, networks, built.wrong, reason)
            right = [
                position
                for position in range(1, len(variants.all))
                if self._is_right(tuner, wrong, variants.uniform_choice(position))
            ]
        if len(right) == len(variants.all) - 1:
            right = []  # each is right by itself, so the transposes between them are not
        kept = [_PLAIN, *right]
        left_out = [variant.name for at, variant in enumerate(variants.all) if at not in kept]
        return variants.only(kept, _left_out(built.wrong, reason, left_out))

    def plain_variants(
        self, tuner: NetworkTuner, networks: Mapping[str, FinishedNetwork], built: BuiltNetworks
    ) -> LayoutVariants:
        """Leave all layouts but the plain one, as a finished network is wrong.

        Args:
            tuner: see `build`.
            networks: see `build`.
            built: what `build` gave, of which a network is wrong.

        Raises:
            ModelError: the network is wrong in the plain layout too.
        """
        assert built.wrong is not None, "asked for where one is"
        wrong = networks[built.wrong]
        choice = tuner.choice(wrong.plan)
        reason = self._reason(tuner, wrong, choice, built.agreement[built.wrong])
        self.require_plain(tuner, networks, built.wrong, reason)
        names = [variant.name for variant in tuner.variants.all[1:]]
        return tuner.variants.only([_PLAIN], _left_out(built.wrong, reason, names))

    def require_plain(
        self,
        tuner: NetworkTuner,
        networks: Mapping[str, FinishedNetwork],
        name: str,
        reason: str,
    ) -> None:
        """Compare a network in the plain layout with torch.

        Args:
            tuner: see `build`.
            networks: see `build`.
            name: of the network.
            reason: what is wrong with it in its fastest layouts.

        Raises:
            ModelError: it is wrong there too.
        """
        if len(tuner.variants.all) > 1:
            network = networks[name]
            choice = tuner.variants.uniform_choice(_PLAIN)
            agreement = self._build_uniform(tuner, network, choice)
            if agreement.holds:
                return
            reason = self._reason(tuner, network, choice, agreement)
        raise ModelError(
            f"{name}: the compiled network does not compute what torch computes, in the plain "
            f"layout either: {reason}. Nothing is claimed of it. Write that layer in another way, "
            "and report it with the network: the fault is cprune-rl's or TVM's."
        )

    def _build_one(
        self, tuner: NetworkTuner, network: FinishedNetwork, choice: VariantChoice, path: Path
    ) -> OutputAgreement:
        try:
            build_network(tuner, network.plan, network.model, path, choice)
        except CPruneError:
            raise
        except Exception as error:  # TVM raises errors of many kinds
            raise ModelError(
                f"a network cannot be compiled ({type(error).__name__}: {last_line(error)}): its "
                "layers are not those that its plan was tuned with. Please report it with the "
                "network."
            ) from error
        return compare_library(tuner.device, path, network.model, self.images)

    def _build_uniform(
        self, tuner: NetworkTuner, network: FinishedNetwork, choice: VariantChoice
    ) -> OutputAgreement:
        """Build a network in one layout, which may have tasks that were not tuned before."""
        tuner.tune_choice(network.plan, choice)
        folder = tuner.device.build_folder / "uniform"
        folder.mkdir(exist_ok=True)
        with _removed_libraries(folder):
            return self._build_one(tuner, network, choice, folder / "network.so")

    def _is_right(
        self, tuner: NetworkTuner, network: FinishedNetwork, choice: VariantChoice
    ) -> bool:
        try:
            return self._build_uniform(tuner, network, choice).holds
        except ModelError:  # a task of this layout has no program that runs: it is not chosen
            return False

    def _reason(
        self,
        tuner: NetworkTuner,
        network: FinishedNetwork,
        choice: VariantChoice,
        agreement: OutputAgreement,
    ) -> str:
        """Say how a network differs, and from which layer on."""
        try:
            layer = first_wrong_layer(
                tuner, network.plan, network.model, choice=choice, image=self.images[:1]
            )
        except DeviceError:
            raise
        except CPruneError as error:
            layer = f"not found ({error})"
        if not layer:
            return f"{agreement}, though each layer by itself is right"
        return f"{agreement}; the first layer that differs: {layer}"


def _left_out(name: str, reason: str, variants: Sequence[str]) -> str:
    return (
        f"{name} does not compute what torch computes ({reason}), so all networks are compiled "
        f"without {' and '.join(variants)}. In the plain layout it does; --layouts plain asks for "
        "nothing else"
    )


@contextlib.contextmanager
def _removed_libraries(folder: Path) -> Iterator[None]:
    """Remove the libraries of a folder in the end: those of large networks fill a disk."""
    try:
        yield
    finally:
        for path in folder.glob("*.so"):
            path.unlink()
