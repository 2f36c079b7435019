"""Profiles out of the YAML files in profiles/, which hold what differs from the defaults."""

from pathlib import Path

import yaml

from .. import files
from ..dataset.catalogue import style_name
from ..files import InputError
from ..profile import TABLES, Profile, profile_of


def read_yaml(path: Path) -> dict:
    """The settings in a file; InputError when it is not YAML, or holds something else."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML in UTF-8: {str(error).splitlines()[0]}.") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold lines of the form `key: value`.")
    return content


def load_profile(name: str, overrides: dict | None = None) -> Profile:
    """The profile of profiles/<name>.yaml, with some settings replaced, also where a style sets them for itself."""
    path = files.PROFILES / f"{name}.yaml"
    known = sorted(p.stem for p in files.PROFILES.glob("*.yaml") if p.stem != "ablations")
    if name not in known:
        names = ", ".join(known) or "those in a clone of the project"
        raise InputError(f"There is no profile `{name}`: choose one of {names}, or add {path.name}.")
    profile, overrides = profile_of({"name": name} | read_yaml(path)), overrides or {}
    for key in overrides:
        if not isinstance(key, str):
            raise InputError(f"Unknown setting `{key}`.")
    own = profile.style_settings
    for style in own.keys() - {style_name(style) for style in profile.styles}:
        raise InputError(f"`style_settings` of profile {name} names {style}, which is none of its styles.")
    if "style_settings" not in overrides:  # what is overridden holds for every style
        overrides = {"style_settings": {style: _without(own[style], overrides) for style in own}} | overrides
    return profile.replace(**overrides)


def _without(own: dict, overrides: dict) -> dict:
    """A style's own settings but those, and those entries of tables, that are overridden."""
    left = {key: value for key, value in own.items() if key in TABLES or key not in overrides}
    for table in TABLES:
        if table in left and isinstance(overrides.get(table), dict):
            left[table] = {k: v for k, v in left[table].items() if k not in overrides[table]}
    return left
