"""Multiple choice, the options of a question as one tree, against the plain way: each option a sequence of its own,
with the logits of every place.

    python benchmarks/multiple_choice.py FOLDER [--rows 300] [--dtype bfloat16]

FOLDER holds rows with options (ARC-Easy, say). The model is SmolLM2-135M-Instruct, on one thread. Seconds are those of
the process (CPU), because walls stretch on a busy machine; both are told.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from subspace_tuning.files.assets import smollm2
from subspace_tuning.judge import MultipleChoice
from subspace_tuning.judge.questions import questions_of


@torch.no_grad()
def plain(model: Any, judgement: MultipleChoice, groups: list, batch: int = 16) -> list[list[float]]:
    """log p of every option: all of them padded to batches in the order they come in, full logits."""
    flat = [one for group in groups for one in group]
    found = []
    for first in range(0, len(flat), batch):
        part = flat[first : first + batch]
        length = max(len(one.ids) for one in part)
        ids = torch.zeros(len(part), length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, one in enumerate(part):
            ids[row, : len(one.ids)], mask[row, : len(one.ids)] = torch.from_numpy(one.ids), 1
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float().log_softmax(-1)
        for row, one in enumerate(part):
            at = np.flatnonzero(one.judged)
            found.append(float(logits[row, at - 1, torch.from_numpy(one.ids[at]).long()].sum()))
    each = iter(found)
    return [[next(each) for _ in group] for group in groups]


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    cpu, wall = time.process_time(), time.perf_counter()
    made = work()
    return made, {"cpu_s": round(time.process_time() - cpu, 1), "wall_s": round(time.perf_counter() - wall, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--dtype", default="bfloat16")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(smollm2())
    model = AutoModelForCausalLM.from_pretrained(smollm2(), dtype=getattr(torch, args.dtype)).eval()
    judgement = MultipleChoice(data=args.folder, samples=args.rows)
    records = judgement.records()
    questions = questions_of(records)
    groups = judgement._encoded(questions, tokenizer)
    MultipleChoice()(model, tokenizer, records=records.rows[:2])  # warm
    verdict, ours = timed(lambda: judgement(model, tokenizer))
    theirs, alone = timed(lambda: plain(model, judgement, groups))
    likely = [np.exp(scores) / np.exp(scores).sum() for scores in map(np.array, theirs)]
    rows = list(zip(likely, [of.right for of in questions], strict=True))
    right = np.array([int(scores.argmax()) == at for scores, at in rows])
    apart = np.abs(np.array([scores[at] for scores, at in rows]) - verdict.per_row["probability"])
    told = {
        "rows": verdict.rows,
        "options": sum(map(len, groups)),
        "dtype": args.dtype,
        "tree": {**ours, **{name: round(value, 4) for name, value in verdict.metrics.items()}},
        "plain": {**alone, "accuracy": round(float(right.mean()), 4)},
        "times_faster": round(alone["cpu_s"] / ours["cpu_s"], 2),
        "right_in_one_only": int((right != np.array(verdict.per_row["accuracy"])).sum()),
        "probability_apart_at_most": float(f"{apart.max():.1e}"),
        "notes": verdict.notes,
    }
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
