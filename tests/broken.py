"""Ways in which a finished run's folder can be broken."""

import json
import shutil


def _result(change):
    def damage(run):
        path = run / "result.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return damage


def _content(name, content):
    def damage(run):
        if (run / name).is_dir():
            shutil.rmtree(run / name)
        (run / name).write_bytes(content)

    return damage


def _folder(name):
    def damage(run):
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir()

    return damage


RESULT = {  # of which nothing can be read
    "cut off": _content("result.json", b'{"score": '),
    "empty": _content("result.json", b""),
    "zeroed": _content("result.json", bytes(400)),
    "no text": _content("result.json", b"\xff\xfe"),
    "a list": _content("result.json", b"[1]"),
    "a folder": _folder("result.json"),
    "score is a word": _result(lambda values: values | {"score": "good"}),
    "score is missing": _result(lambda values: {k: v for k, v in values.items() if k != "score"}),
    "seed is huge": _result(lambda values: values | {"seed": 10**30}),
    "steps are no whole number": _result(lambda values: values | {"steps": 1.5}),
    "task is none": _result(lambda values: values | {"task": None}),
    "from another version": _result(lambda values: values | {"novelty": 1}),
}
BESIDE = {  # the result of these can be read
    "config is no text": _content("config.yaml", b"\xff\xfe\x00"),
    "config is empty": _content("config.yaml", b""),
    "config is no mapping": _content("config.yaml", b"- 1\n-2: [\n"),
    "metrics are no text": _content("metrics.jsonl", b"\xff\xfe\x00\n"),
    "metrics are cut off": _content("metrics.jsonl", b'{"step": 1, "loss": 0.5}\n{"step": 2, "lo'),
    "metrics are odd": _content(
        "metrics.jsonl", b'[]\n3\nnull\n{"step": "x", "loss": []}\n{"step": 1e999, "loss": 1}\n'
    ),
    "metrics are a folder": _folder("metrics.jsonl"),
    "weights are gone": lambda run: shutil.rmtree(run / "adapter", ignore_errors=True),
    "an error beside": _content("error.txt", b"\xff\xfe"),
}
ALL = RESULT | BESIDE
