"""DeepSpeed's elastic checkpoints, made to work with torch's optimizers and with fewer workers."""

from functools import cache
from typing import Any


def count_steps_in_groups(engine: Any, step: int) -> None:
    """DeepSpeed's elastic checkpoints look for the step where its own Adam keeps it; torch's keeps
    it elsewhere."""
    optimizer = getattr(engine.optimizer, "optimizer", None)
    for group in getattr(optimizer, "param_groups", ()):
        group["step"] = step


@cache
def let_others_read() -> None:
    """DeepSpeed's optimizers of stage 1 and 2 can divide an elastic checkpoint among another number
    of workers; its engine refuses before it asks them."""
    from deepspeed.runtime.engine import DeepSpeedEngine

    own = DeepSpeedEngine._load_zero_checkpoint

    def load(engine: Any, folder: str, tag: str, load_optimizer_states: bool = True) -> Any:
        if engine.loaded_checkpoint_dp_world_size == engine.seq_dp_world_size:
            return own(engine, folder, tag, load_optimizer_states=load_optimizer_states)
        shards = engine._get_all_zero_checkpoints(folder, tag)
        if shards is None:
            return False
        engine.optimizer.load_state_dict(
            state_dict_list=shards,
            load_optimizer_states=load_optimizer_states,
            load_from_fp32_weights=engine.zero_load_from_fp32_weights(),
            param_shapes=engine._get_zero_param_shapes(),
        )
        return True

    DeepSpeedEngine._load_zero_checkpoint = load
