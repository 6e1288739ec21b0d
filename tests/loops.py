"""Short trainings of a tiny model."""

from transformers import Trainer, TrainerCallback, TrainingArguments

from models import batch, bert

USUAL = {"per_device_train_batch_size": 4, "learning_rate": 0.01, "weight_decay": 0.1, "save_strategy": "no"}


class Watch(TrainerCallback):
    """Records something after every step."""

    def __init__(self, model, look):
        self.model, self.look, self.seen = model, look, []

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.seen.append(self.look(self.model))


def rows(size=8):
    whole = batch(bert, size)
    return [{k: v[i] for k, v in whole.items()} for i in range(size)]


def trainer(model, path, steps, callbacks=(), **values):
    how = TrainingArguments(
        output_dir=str(path),
        max_steps=steps,
        lr_scheduler_type="constant",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **{**USUAL, **values},
    )
    return Trainer(model=model, args=how, train_dataset=rows(), callbacks=list(callbacks))


def train(model, path, steps, callbacks=(), resume=None, **values):
    trainer(model, path, steps, callbacks, **values).train(resume_from_checkpoint=resume)
    return model
