"""The options of a run: the help, the schema of the YAML file, what a run folder keeps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError, field_validator

from cprune_rl.agents.core.searcher import Budget, parse_budget
from cprune_rl.core.search_result import current_method
from cprune_rl.core.untrusted import damage, printable, read_yaml
from cprune_rl.errors import ConfigError
from cprune_rl.pipeline.described_option import PANELS, option
from cprune_rl.pipeline.efforts import EFFORTS, Effort
from cprune_rl.pipeline.old_options import overridden, translate
from cprune_rl.pipeline.whole_paths import check_is_text, with_whole_paths

__all__ = ["CHANGES", "CHOICES", "RunConfig", "list_problems", "load_config", "split_commas"]

CHANGES = ("channels", "schemes")
CHOICES = ("search", "rule")
_METHOD_OF_CHANGE = {
    (("channels",), "search"): "agent",
    (("channels",), "rule"): "agent",
    (("schemes",), "search"): "mapping-search",
    (("schemes",), "rule"): "mapping-rule",
    (("channels", "schemes"), "search"): "channels-then-schemes",
    (("channels", "schemes"), "rule"): "channels-then-rule",
}


class RunConfig(BaseModel):
    """Options of a run; flags override the file, and the file overrides these defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    _is_front_of_one: bool = PrivateAttr(default=False)

    model: str = option(
        PANELS[0],
        "resnet8",
        "Network: packaged, torchvision:NAME, timm:NAME, file.py:function, which is called with "
        "the number of classes, or file.onnx with its weights.",
        complete="models",
    )
    weights: Path | None = option(
        PANELS[0],
        None,
        "Trained weights of the network, a state_dict in .pt or .safetensors.",
        shown="trained on the data",
    )
    data: str = option(
        PANELS[0],
        "contours",
        "Images to train and judge on: contours, digits, fashion-mnist, cifar10:DIR, "
        "imagefolder:DIR?size=64, npz:FILE, or file.py:function.",
        complete="data",
    )
    change: tuple[str, ...] = option(
        PANELS[0],
        ("channels",),
        "What may change, parted by commas: channels of groups, and schemes of layers (blocks, "
        "kernels, patterns).",
        complete="changes",
    )
    choose: str = option(
        PANELS[0],
        "search",
        "How layers get schemes: search, by an agent that begins with the rule; or rule, from a "
        "table of latencies on the device.",
        complete="choices",
    )
    importance: str = option(
        PANELS[0],
        "l2",
        "Which channels go first: l1, l2, fpgm, taylor or random.",
        complete="importances",
    )
    freeze: tuple[str, ...] = option(
        PANELS[0],
        (),
        "Layer to leave whole, e.g. stem or *.conv1; may be given several times.",
        shown="none",
    )
    keep: tuple[str, ...] = option(
        PANELS[0],
        (),
        "Share of a layer's channels that always stays, e.g. layer4=0.5; may be given several "
        "times.",
        shown="0.2 for each layer",
    )
    floor: tuple[float, ...] = option(
        PANELS[1],
        (-0.01,),
        "Accuracy that must hold: -0.01 is one point below the dense network, 0.95 is absolute. "
        "Several, parted by commas, make a front.",
    )
    floor_from: Literal["better", "given"] = option(
        PANELS[1],
        "better",
        "Dense network that a floor of 0 or less is counted from: the better one of the network "
        "as given and the same after the fine-tune that pruned ones get; or given.",
    )
    margin: float | None = option(
        PANELS[1],
        None,
        "Accuracy that a search keeps above the floor.",
        shown="what the final gate will ask for on so many images",
        ge=0,
        lt=1,
    )
    confidence: float = option(
        PANELS[1],
        0.95,
        "Of the final gate: how sure it is that a network which passes holds the floor.",
        gt=0.5,
        lt=1,
    )
    top: int = option(
        PANELS[1],
        1,
        "An image counts as right where its label is among so many most likely classes.",
        ge=1,
    )
    methods: tuple[str, ...] = option(
        PANELS[2],
        (),
        "Methods to run, parted by commas; the first is what result.json is about. "
        "`cprune-rl compare --list` says which there are.",
        shown="the agent; with `train` also cprune, to compare with",
        complete="methods",
    )
    budget: str = option(
        PANELS[2],
        "",
        "Of each search: trials=N, evaluations=N, finetunes=N, minutes=N, parted by commas; what "
        "is left out is no limit.",
        shown="no limit",
    )
    effort: str = option(
        PANELS[2],
        "full",
        "full; light: a third of the trials, latencies a few percent higher; quick: a sixth, and "
        "half of the search; fast: a narrower network and fewer images, to try the way.",
        complete="efforts",
    )
    policy: str | None = option(
        PANELS[2],
        None,
        "Prune with a policy trained before, a folder or a packaged one's name.",
        shown="`prune`: the packaged one; `train`: trained on a model of this problem",
        complete="policies",
    )
    scheme_policy: str | None = option(
        PANELS[2],
        None,
        "Choose schemes with a policy trained before, a folder or a packaged one's name.",
        shown="trained on a model of this problem",
    )
    init: str | None = option(
        PANELS[2],
        None,
        "Begin the training with this policy's weights, a folder or a packaged one's name.",
        shown="random weights",
        complete="policies",
    )
    seed: int = option(PANELS[2], 0, "Seed of training, schedules and search.", ge=0)
    oracle: str = option(
        PANELS[3],
        "finetune",
        "How a search judges accuracy: finetune or finetune:STEPS, supernet (trained once, must "
        "rank as full fine-tunes do), or recalibrate.",
        complete="oracles",
    )
    finetune_steps: int | None = option(
        PANELS[3],
        None,
        "Steps of the full fine-tune of finished networks and of the oracle's calibration.",
        shown="by --effort: 1000, 500, 300 or 200",
        gt=0,
    )
    distillation: float = option(
        PANELS[3],
        0.5,
        "Share of the full fine-tune's loss that is the difference to the dense network's "
        "answers; the labels have the rest.",
        ge=0,
        lt=1,
    )
    labels: Literal["given", "teacher"] = option(
        PANELS[3],
        "given",
        "Whose labels count: given ones, or those of the teacher, the dense network of --weights. "
        "Accuracy then means agreement with it, and any folder of pictures will do.",
        complete="labels",
    )
    task: str | None = option(
        PANELS[3],
        None,
        "Loss and metric of your own, file.py:Task: a class with loss(output, target) and "
        "correct(output, target).",
        shown="one class for each image",
    )
    train_device: str = option(
        PANELS[3],
        "cpu",
        "Where networks are trained and judged: cpu, or a GPU that torch sees, e.g. cuda.",
    )
    device: str = option(
        PANELS[4],
        "local",
        "Where to be fast: local, local?threads=2, rpc://host:port/key of a TVM tracker, or "
        "recorded:NAME, no device but a recording.",
        complete="devices",
    )
    predict: float | Literal["always"] = option(
        PANELS[4],
        0.0,
        "Believe a predicted task whose 90 % interval is at most this far to each side, e.g. "
        "0.1; 0 measures every task; always measures none during the search.",
    )
    layouts: Literal["all", "plain"] = option(
        PANELS[4],
        "all",
        "Layouts to compile in: all, the fastest of them for each layer; or plain, NCHW as TVM "
        "computes it.",
    )
    storage: str | None = option(
        PANELS[4],
        None,
        "Cost cache, e.g. sqlite:///costs.db.",
        shown="CPRUNE_RL_STORAGE, or a file in the folder of --cache",
    )
    out: Path | None = option(PANELS[5], None, "Run folder.", shown="a new one under runs/")
    export: tuple[str, ...] = option(
        PANELS[5],
        (),
        "Formats that finished networks are also written in, parted by commas: onnx, pte "
        "(ExecuTorch).",
        shown="onnx, where the extra onnx is installed",
        complete="exports",
    )
    cache: Path | None = option(
        PANELS[5],
        None,
        "Folder where trained networks and costs are kept.",
        shown="CPRUNE_RL_CACHE, or the user cache folder",
    )

    @field_validator("floor", mode="before")
    @classmethod
    def _split_floors(cls, value: Any) -> Any:
        try:
            return tuple(float(part) for part in split_commas(value))
        except ValueError:
            raise ValueError("give numbers, parted by commas, e.g. -0.005,-0.01") from None

    @field_validator("floor")
    @classmethod
    def _check_floors(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or any(not -1.0 <= floor <= 1.0 for floor in value):
            raise ValueError(
                "give an accuracy in (0, 1], or e.g. -0.01 for one point below the dense network"
            )
        if len(set(value)) < len(value):
            raise ValueError("give different accuracies, parted by commas, e.g. -0.005,-0.01")
        return value

    @field_validator("oracle")
    @classmethod
    def _check_oracle(cls, value: str) -> str:
        kind, colon, steps = value.partition(":")
        has_steps = kind == "finetune" and steps.isdecimal() and int(steps) > 0
        if kind not in ("finetune", "supernet", "recalibrate") or (colon and not has_steps):
            raise ValueError(f"{value!r}: give finetune, finetune:STEPS, supernet or recalibrate")
        return value

    @field_validator("methods", mode="before")
    @classmethod
    def _split_methods(cls, value: Any) -> Any:
        names = (current_method(name, warns=True) for name in split_commas(value))
        return tuple(dict.fromkeys(names))

    @field_validator("change", mode="before")
    @classmethod
    def _split_changes(cls, value: Any) -> Any:
        return tuple(split_commas(value))

    @field_validator("change")
    @classmethod
    def _check_change(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or set(value) - set(CHANGES):
            raise ValueError(f"{','.join(value)!r}: give channels, schemes or channels,schemes")
        return tuple(change for change in CHANGES if change in value)

    @field_validator("export", mode="before")
    @classmethod
    def _split_formats(cls, value: Any) -> Any:
        return tuple(dict.fromkeys(split_commas(value)))

    @field_validator("choose")
    @classmethod
    def _check_choose(cls, value: str) -> str:
        if value not in CHOICES:
            raise ValueError(f"{value!r}: give search or rule")
        return value

    @field_validator("budget")
    @classmethod
    def _check_budget(cls, value: str) -> str:
        try:
            parse_budget(value)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return value

    @field_validator("predict")
    @classmethod
    def _check_predict(cls, value: float | str) -> float | str:
        if isinstance(value, float) and not 0 <= value < math.inf:
            raise ValueError("give a width of 0 or more, e.g. 0.1, or always")
        return value

    @field_validator("freeze", "keep", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("keep")
    @classmethod
    def _check_keep(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            layer, _, share = item.rpartition("=")
            try:
                is_share = 0 < float(share) <= 1
            except ValueError:
                is_share = False
            if not (is_share and layer):
                raise ValueError(
                    f"{item!r}: give a layer and the share of its channels that stays, "
                    "e.g. layer4=0.5"
                )
        return value

    @property
    def own_method(self) -> str:
        """What result.json is about: the first method, or the one that fits `change`."""
        return self.methods[0] if self.methods else self.method_of_change

    @property
    def method_of_change(self) -> str:
        """This project's method for what may change."""
        return _METHOD_OF_CHANGE[self.change, self.choose]

    @property
    def rivals(self) -> tuple[str, ...]:
        """Methods that run beside the own one."""
        return self.methods[1:]

    @property
    def has_schemes(self) -> bool:
        """Whether layers may be pruned by schemes."""
        return "schemes" in self.change

    @property
    def has_channels(self) -> bool:
        """Whether groups may lose channels."""
        return "channels" in self.change

    @property
    def is_front(self) -> bool:
        """Whether there are several floors, or one that version 0.2 made a front of."""
        return len(self.floor) > 1 or self._is_front_of_one

    def as_front(self) -> RunConfig:
        """Give the same options of a front, also where there is one floor."""
        front = self.model_copy()
        front._is_front_of_one = True
        return front

    @property
    def limits(self) -> Budget:
        """`budget`, parsed."""
        return parse_budget(self.budget)

    @property
    def widest_interval(self) -> float:
        """How wide the interval of a predicted task may be; infinite for always."""
        return math.inf if self.predict == "always" else float(self.predict)

    @property
    def measures_tasks(self) -> bool:
        """Whether the search measures tasks at all."""
        return self.predict != "always"

    @property
    def kept_shares(self) -> dict[str, float]:
        """`keep` by layer."""
        pairs = (item.rpartition("=") for item in self.keep)
        return {layer: float(share) for layer, _, share in pairs}

    @property
    def is_fast(self) -> bool:
        """Whether the run only tries the way."""
        return self.effort == "fast"

    @property
    def work(self) -> Effort:
        """How much work the parts do."""
        effort = EFFORTS[self.effort]
        steps = self.finetune_steps
        return effort if steps is None else replace(effort, finetune_steps=steps)

    @property
    def network_name(self) -> str:
        """The network that is built.

        `--effort fast` takes the default network at half its width. A recording is of one width.
        """
        is_default = self.model == "resnet8" and not self.device.startswith("recorded:")
        return "resnet8-w8" if self.is_fast and is_default else self.model


def split_commas(value: Any) -> list[str]:
    """Split text, or each item of a list, at its commas.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(value, (str, float, int, list, tuple)):
        raise ValueError(f"give a text or a list, not {type(value).__name__}")
    items = [value] if isinstance(value, (str, float, int)) else list(value)
    parts = (part.strip() for item in items for part in str(item).split(","))
    return [part for part in parts if part]


def load_config(
    file: Path | None,
    flags: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
    beside: Iterable[str] = (),
) -> RunConfig:
    """Join flags, a YAML file and the defaults.

    Args:
        file: YAML with any of the options.
        flags: options given on the command line; a None is not given.
        defaults: of the command, in the place of the usual ones.
        beside: methods that the command runs beside its own where none are named.

    Raises:
        ConfigError: the file is missing or no YAML, or an option is unknown or wrong.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    values = translate({**overridden(_read(file), given), **given}, has_rival=bool(beside))
    if values.get("init") is not None:  # a policy to train further is not taken as it is
        defaults = {name: value for name, value in (defaults or {}).items() if name != "policy"}
    where = "" if file is None else f"{file}: "
    try:
        values = with_whole_paths({**(defaults or {}), **values})
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from error
    try:
        config = RunConfig(**values)
    except ValidationError as error:
        raise ConfigError(
            f"{where}{list_problems(error)}. Known options: {', '.join(RunConfig.model_fields)}."
        ) from error
    if config.methods or config.is_front or not beside:
        return config
    channels = ["agent"] if config.has_schemes else []
    methods = dict.fromkeys([config.method_of_change, *beside, *channels])
    return config.model_copy(update={"methods": tuple(methods)})


def list_problems(error: ValidationError) -> str:
    """Say in one line what is wrong with options."""
    problems = [
        f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
        for problem in error.errors()
    ]
    return printable("; ".join(problems))


def _read(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        values = read_yaml(file) or {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {file}: {damage(error)}") from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ConfigError(f"{file} must hold options such as `floor: -0.02`, one a line")
    for name, value in values.items():
        check_is_text(f"{file}: {name}", value)
    return values
