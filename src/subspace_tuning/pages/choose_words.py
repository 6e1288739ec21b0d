"""What docs/choose.md and docs/zh/choose.md say around their tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Words(NamedTuple):
    """One language's: the page's beginning, what may be needed, the columns, and how far up docs/ is from the page."""

    head: str
    needs: Mapping[str, str]
    unknown: tuple[str, str]  # what is asked and not known yet
    asked: tuple[str, str]
    all: str
    header: tuple[str, ...]
    score: str  # of a score and per mille
    yes: str
    sits_on: Mapping[str, str]
    root: str


MADE = "<!-- made by `make docs` from the registry, method_table.json, step.json and minilm_glue.csv in docs/data -->\n"

ENGLISH = Words(
    MADE
    + """\
# Choose a method

No method is best at everything. What each can do follows from its equation; what it costs and how far it comes was
measured. `subspace advise` [picks three](advise.md) for a model, its data and what is needed; here is what it goes by.

**In doubt**: `lora` when others must load it, `ssb` when there are many adapters or little memory, full fine-tuning
when nothing else counts but the score.

## Four questions

1. **Who serves it?** Servers that load LoRAs (vLLM, llama.cpp) need a method that is exactly a LoRA, or the merged
   model, which every method that merges gives ([convert](convert.md)). Where this library is at hand, nothing is ruled
   out.
2. **Is the base quantised?** Most methods train on it as it is; a merge into it loses what is smaller than its steps
   ([how much](quantised.md#what-was-tried)).
3. **How many adapters?** Scales of inputs and outputs (`ssb`, `ssl`, `ia3`) are thousands of numbers a weight, where a
   LoRA has tens of thousands, and one batch serves many adapters ([serving](serving.md)).
4. **How much may change?** Few numbers hold little of a large change ([fit](fit.md)); more of them hold more, and at
   last all hold it.

What is left is tried: two or three methods in [a sweep](sweep.md) with equal tuning, by the data at hand.

## By what is needed

Scores are accuracies on held-out movie reviews after a short training of MiniLM, mean of three seeds, at so many per
mille of its weights ([all of it](methods.md#measured)). GLUE is the mean over two tasks with tuned learning rates, in %
of full fine-tuning, with its interval of 95 % ([the study](study.md)). Time, and what is kept for the backward pass,
are those of a step over [the floor](floor.md), below which no fine-tuning can come. Scores within one another's spread
are not to be told apart.

""",
    {
        "score": "the highest score after a short training",
        "tuned": "the most of full fine-tuning on GLUE, rates tuned",
        "fewest": "fewest parameters, and 8 points over the probe",
        "fast": "a step within 5 % of the floor's time",
        "lean": "a step that keeps within 1 % of the floor's bytes",
        "lora": "exactly a LoRA of some rank, for vLLM and others that load LoRAs",
        "merged": "merged, so that it costs nothing afterwards, and no LoRA's size on disk",
        "quantised": "a quantised base, which stays as it is",
    },
    (
        "little forgotten of what the model could before",
        "not known yet: [the study](language_models.md#the-study) is not finished. `retention:` in a recipe measures "
        "it for a model and its data, and [the dial](strength.md) trades one for the other after training",
    ),
    ("what is needed", "methods, the best first"),
    "All of them",
    ("method", "per mille", "score", "GLUE", "time", "merges", "LoRA", "quantised", "sits on"),
    "{:.1f} at {:.2g} per mille",
    "yes",
    {},
    "",
)

CHINESE = Words(
    MADE
    + """\
# 选择方法

没有哪种方法样样都好。一种方法能做什么，由它的方程决定；要花多少代价、能走多远，则是测出来的。
`subspace advise` 会针对模型、数据和需求[推荐三种](../advise.md)；本页列出它所依据的材料。

**拿不定主意时**：适配器要给别人加载就用 `lora`；适配器很多或内存很少就用 `ssb`；只看重分数就用全量微调。

## 四个问题

1. **由谁来部署？** 能加载 LoRA 的服务（vLLM、llama.cpp）需要一种恰好就是 LoRA 的方法，或者合并后的模型；
   凡是能合并的方法都能给出后者（[转换](../convert.md)）。如果部署端装有本库，则没有限制。
2. **基座是否量化？** 多数方法可以直接在量化基座上训练；合并进量化权重时，小于量化步长的改变会丢失
   （[丢失多少](../quantised.md#what-was-tried)）。
3. **有多少个适配器？** 只缩放输入与输出的方法（`ssb`、`ssl`、`ia3`）在每个权重上只有几千个数，而 LoRA 有几万个；
   一个批次可以同时服务许多适配器（[部署](../serving.md)）。
4. **需要改变多少？** 参数少，就装不下大的改变（[拟合](../fit.md)）；参数越多装得越多，直到全部参数。

剩下的靠试：用手头的数据，在调参次数相同的[扫描](../sweep.md)里比较两三种方法。

## 按需求选择

分数是 MiniLM 短训练之后在留出的电影评论上的准确率，三个随机种子取平均，并注明训练了千分之几的权重
（[全部结果](../methods.md#measured)）。GLUE 是两个任务在学习率调过之后的平均，以全量微调为 100 %，
附 95 % 区间（[研究](../study.md)）。时间和为反向传播保留的字节，都是一步训练相对于[下限](../floor.md)的倍数，
任何微调都不会低于这个下限。分数之差小于彼此的波动时，不能分出高下。

""",
    {
        "score": "短训练之后分数最高",
        "tuned": "在 GLUE 上最接近全量微调（学习率已调）",
        "fewest": "参数最少，且比线性探针高 8 分",
        "fast": "一步的时间不超过下限的 1.05 倍",
        "lean": "一步保留的字节不超过下限的 1.01 倍",
        "lora": "恰好是某个秩的 LoRA，可供 vLLM 等加载",
        "merged": "合并后不再有额外开销，存储也不像 LoRA 那么大",
        "quantised": "基座已量化，并保持不动",
    },
    (
        "尽量不忘记模型原来会的东西",
        "尚不清楚：[这项研究](../language_models.md#the-study)还没有做完。配方里的 `retention:` 会针对你的模型和数据"
        "测量遗忘；训练之后还可以用[强度旋钮](../strength.md)在两者之间取舍",
    ),
    ("需求", "方法，最好的在前"),
    "全部方法",
    ("方法", "千分比", "分数", "GLUE", "时间", "可合并", "LoRA", "量化", "所在位置"),
    "{:.1f}，{:.2g} ‰",
    "是",
    {"weight": "权重", "bias": "偏置", "output": "输出", "block": "整个块", "tokens": "词元"},
    "../",
)
