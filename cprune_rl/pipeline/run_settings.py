"""Turns the options of a run into the settings of its stages."""

from __future__ import annotations

from cprune_rl.accuracy.supernet import SupernetSettings
from cprune_rl.accuracy.training import TrainSettings
from cprune_rl.agents.planner.surrogate import SurrogateSettings
from cprune_rl.agents.planner.verified_search import VerifiedSettings
from cprune_rl.agents.registry import SearchEffort
from cprune_rl.compiler.devices.spec import RecordedSpec, parse_device
from cprune_rl.envs.actions.scheme_actions import START_RATIOS
from cprune_rl.pipeline.calibration_stage import CalibrationSettings
from cprune_rl.pipeline.config import RunConfig
from cprune_rl.pipeline.finalize import GateSettings
from cprune_rl.pipeline.full_finetune import full_finetune
from cprune_rl.pipeline.oracle_setup import OracleSettings, short_finetune
from cprune_rl.pipeline.policy_stage import PolicySettings
from cprune_rl.pipeline.search_stage import SearchSettings
from cprune_rl.pipeline.trained_model import LoadSettings
from cprune_rl.pruning.groups import GroupSettings

__all__ = [
    "calibration_settings",
    "channel_policy_settings",
    "gate_settings",
    "load_settings",
    "oracle_settings",
    "scheme_policy_settings",
    "search_settings",
]


def load_settings(config: RunConfig) -> LoadSettings:
    """Give the settings of `load_trained_model`."""
    return LoadSettings(
        network=config.network_name,
        data=config.data,
        weights=config.weights,
        training=TrainSettings(n_steps=config.work.base_steps, seed=config.seed),
        groups=GroupSettings(
            importance=config.importance,
            freeze=config.freeze,
            keep=config.kept_shares,
            seed=config.seed,
        ),
        train_device=config.train_device,
        seed=config.seed,
        top=config.top,
        labels=config.labels,
        task=config.task,
        is_fast=config.is_fast,
        is_compiled=not isinstance(parse_device(config.device), RecordedSpec),
    )


def oracle_settings(config: RunConfig) -> OracleSettings:
    """Give the settings of `open_oracle`."""
    effort = config.work
    kind, _, steps = config.oracle.partition(":")
    n_steps = int(steps or effort.oracle_steps)
    return OracleSettings(
        kind=kind,
        short=short_finetune(n_steps, config.seed),
        full=full_finetune(config),
        supernet=SupernetSettings(n_steps=effort.supernet_steps, seed=config.seed),
        n_proof_plans=effort.proof_plans,
        has_schemes=config.has_schemes,
        seed=config.seed,
    )


def calibration_settings(config: RunConfig) -> CalibrationSettings:
    """Give the settings of `calibrate`."""
    effort = config.work
    return CalibrationSettings(
        kept_ratios=effort.calibration,
        densities=effort.scheme_calibration if config.has_schemes else (),
        floors=config.floor,
        full=full_finetune(config),
    )


def search_settings(config: RunConfig) -> SearchSettings:
    """Give the settings of `search`."""
    return SearchSettings(
        budget=config.limits,
        effort=SearchEffort(
            verified=VerifiedSettings(n_cheap=config.work.n_cheap, n_full=config.work.n_full),
            surrogate=SurrogateSettings(turns=config.work.turns),
        ),
        seed=config.seed,
    )


def channel_policy_settings(config: RunConfig) -> PolicySettings:
    """Give the policy that narrows groups."""
    return PolicySettings(
        given=config.policy,
        init=config.init,
        total_timesteps=config.work.total_timesteps,
        start_ratios=(),
        seed=config.seed,
    )


def scheme_policy_settings(config: RunConfig) -> PolicySettings:
    """Give the policy that gives layers their schemes."""
    return PolicySettings(
        given=config.scheme_policy,
        init=None,
        total_timesteps=config.work.mapping_timesteps,
        start_ratios=START_RATIOS if config.has_channels else (),
        seed=config.seed,
    )


def gate_settings(config: RunConfig, floor: float) -> GateSettings:
    """Give the settings of the final gate for one of the run's floors."""
    return GateSettings(
        floor=floor,
        margin=config.margin or 0.0,
        risk=1 - config.confidence,
        finetune=full_finetune(config),
    )
