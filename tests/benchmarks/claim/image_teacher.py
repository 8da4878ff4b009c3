"""The image tower of a trained model as a folder of timm, which makes it a teacher of images alone."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from extract.teacher_files.geometry import OPENAI_MEAN, OPENAI_STD
from store.files import write_atomic

TRUNK = "visual.trunk."


def image_tower_alone(model: Path, out: Path) -> None:
    """Write the timm network inside a model folder of open_clip as timm's own repositories have theirs.

    The model states no preprocessing, so that it was trained with open_clip's.
    """
    stated = json.loads((model / "open_clip_config.json").read_text())
    state = load_file(model / "open_clip_model.safetensors")
    trunk = {name.removeprefix(TRUNK): tensor for name, tensor in state.items() if name.startswith(TRUNK)}
    vision = stated["model_cfg"]["vision_cfg"]
    side = vision["image_size"]
    config = {
        "architecture": vision["timm_model_name"],
        "num_classes": 0,
        "num_features": len(state["visual.head.proj.weight"][0]),
        "pretrained_cfg": {
            "input_size": [3, side, side],
            "crop_pct": 1.0,
            "interpolation": "bicubic",
            "mean": OPENAI_MEAN,
            "std": OPENAI_STD,
            "num_classes": 0,
        },
    }
    out.mkdir(parents=True, exist_ok=True)
    save_file(trunk, out / "model.safetensors")
    write_atomic(out / "config.json", json.dumps(config, indent=1).encode())
