"""Models that open_clip knows by name and tag, loaded from weights on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import open_clip
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.pretrained import get_pretrained_cfg, is_pretrained_cfg
from torch import Tensor

from store.errors import ConfigError, WeightsNotFoundError


class Tag(NamedTuple):
    """A set of weights that open_clip knows.

    Attributes:
        name: of the model, such as ``ViT-B-16-quickgelu``.
        tag: of the weights, such as ``metaclip_400m``.
    """

    name: str
    tag: str


def tag_of(init: str) -> Tag | None:
    """Return the tag that ``model.init`` names, None if it is a folder.

    Args:
        init: ``NAME/TAG``; as a path of the configuration it starts with that file's folder.
    """
    path = Path(init)
    tag = Tag(path.parent.name, path.name)
    return None if path.exists() or not is_pretrained_cfg(*tag) else tag


def load_tag(tag: Tag) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the configuration of a model folder and the weights.

    Raises:
        WeightsNotFoundError: the weights are not on this machine.
    """
    _require_weights(tag, setting="init")
    model = open_clip.create_model(tag.name, pretrained=tag.tag, require_pretrained=True)
    preprocess = {key: model.visual.preprocess_cfg[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    config = open_clip.get_model_config(tag.name)
    if config.get("text_cfg", {}).get("hf_model_name"):
        config["text_cfg"]["hf_model_pretrained"] = False
    return {"model_cfg": config, "preprocess_cfg": preprocess}, model.state_dict()


def image_tower(source: str) -> tuple[dict[str, Tensor], Tensor]:
    """Return the weights of the image tower that ``model.vision_from`` names, and the logit scale beside them.

    The scale is the parameter as the file has it, a logarithm.

    Args:
        source: ``NAME/TAG``, or ``NAME/FILE``.

    Raises:
        ConfigError: open_clip knows no model of that name.
        WeightsNotFoundError: the weights are not on this machine.
    """
    name, _, weights = source.partition("/")
    if open_clip.get_model_config(name) is None:
        raise ConfigError(
            f"model.vision_from: {source}: open_clip has no model {name!r}",
            hint="give NAME/TAG or NAME/FILE; python -c 'import open_clip; print(open_clip.list_pretrained())' lists "
            "names and tags",
        )
    if is_pretrained_cfg(name, weights):
        _require_weights(Tag(name, weights), setting="vision_from")
    elif not Path(weights).is_file():
        raise WeightsNotFoundError(
            f"model.vision_from: {source}: {weights!r} is neither a tag that open_clip knows of {name} nor a file",
            hint=f"open_clip.list_pretrained_tags_by_model('{name}') lists its tags",
        )
    model = open_clip.create_model(name, pretrained=weights, require_pretrained=True)
    return model.visual.state_dict(), model.logit_scale.detach()


def _require_weights(tag: Tag, *, setting: str) -> None:
    """Check that the weights are where open_clip looks before it downloads: a training never downloads silently."""
    config = get_pretrained_cfg(*tag)
    places = [str(Path(config["file"]))] if config.get("file") else []
    if config.get("url"):
        places.append(str(Path("~/.cache/clip").expanduser() / Path(config["url"]).name))
    if any(Path(place).is_file() for place in places):
        return
    hub = config.get("hf_hub", "")
    if hub:
        repo, _, file = hub.rpartition("/")
        names = [file or HF_WEIGHTS_NAME]
        names.append(str(Path(names[0]).with_suffix(".safetensors")) if file else HF_SAFE_WEIGHTS_NAME)
        if any(isinstance(huggingface_hub.try_to_load_from_cache(repo, name), str) for name in names):
            return
        places.append(f"the hub's cache ({names[0]} of {repo})")
    raise WeightsNotFoundError(
        f"model.{setting}: the weights {tag.tag} of {tag.name} are not on this machine; looked for {', '.join(places)}",
        hint="where there is a network, "
        f"python -c \"import open_clip; open_clip.create_model('{tag.name}', pretrained='{tag.tag}')\" gets them",
    )
