"""What a Hydra project's configuration says by itself, without the overrides of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML


def configured_value(job: Path, key: str, overrides: Mapping[str, str]) -> int | None:
    """The int that the configuration of a job's project has for ``key`` when that is not overridden.

    Composes the configuration anew, from where the job's ``.hydra/hydra.yaml`` says it came.

    Args:
        job: Output folder of a Hydra job.
        key: A dotted key.
        overrides: The other overrides of the job.

    Returns:
        The value; None where it cannot be found out (the project has moved, its configuration needs the
        project's own code, Hydra is in use in this process) or is no int.
    """
    try:
        source, name = _origin(job)
        from hydra import compose, initialize_config_dir
        from hydra.core.global_hydra import GlobalHydra
        from omegaconf import OmegaConf

        if GlobalHydra.instance().is_initialized():
            return None
        with initialize_config_dir(config_dir=source, version_base=None):
            config = compose(name, overrides=[f"{key}={value}" for key, value in overrides.items()])
            value = OmegaConf.select(config, key)
    except Exception:  # whatever a foreign configuration raises, the sweep itself is still there to be read
        return None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _origin(job: Path) -> tuple[str, str]:
    """Folder and name of the primary configuration of a job."""
    hydra: Any = YAML(typ="safe", pure=True).load(
        (job / ".hydra" / "hydra.yaml").read_text(encoding="utf-8")
    )["hydra"]
    sources = [
        source["path"] for source in hydra["runtime"]["config_sources"] if source["provider"] == "main"
    ]
    return sources[0], hydra["job"]["config_name"]
