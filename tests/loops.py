"""Short trainings of a tiny model."""

from transformers import Trainer, TrainingArguments

from models import batch, bert
from subspace_tuning import StepCallback


class Watch(StepCallback):
    """Also records something after every step."""

    def __init__(self, model, look):
        super().__init__()
        self.model, self.look, self.seen = model, look, []

    def on_optimizer_step(self, args, state, control, **kwargs):
        super().on_optimizer_step(args, state, control, **kwargs)
        self.seen.append(self.look(self.model))


def train(model, path, steps, callbacks=(), resume=None, **values):
    whole = batch(bert, 8)
    how = TrainingArguments(
        output_dir=str(path),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=0.01,
        lr_scheduler_type="constant",
        weight_decay=0.1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **{"save_strategy": "no", **values},
    )
    rows = [{k: v[i] for k, v in whole.items()} for i in range(8)]
    Trainer(model=model, args=how, train_dataset=rows, callbacks=list(callbacks)).train(resume_from_checkpoint=resume)
    return model
