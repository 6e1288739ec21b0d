"""Rows of any number, layout and precision give the same map."""

import torch

from subspace_tuning.testing.cases import Case, adapter_parameters, tuned, tuned_layer
from subspace_tuning.testing.kinds import Kind, inputs, rows_as_they_are
from subspace_tuning.testing.law import law, near, require


@law(dtype=[torch.float32, torch.bfloat16])
def zero_rows_give_zero_rows(case: Case, kind: Kind, dtype: torch.dtype) -> None:
    model = tuned(case, kind, dtype=dtype).train()
    x = inputs(kind, 0, dtype)
    y, want = model(x), tuned_layer(model).base_layer(x)
    require(y.shape == want.shape, f"no rows give the shape {tuple(y.shape)}, expected {tuple(want.shape)}")
    require(y.dtype == dtype, f"the output is {y.dtype}, expected {dtype}")
    y.sum().backward()
    for name, p in adapter_parameters(model).items():
        require(p.grad is not None and not p.grad.any(), f"no rows give {name} a gradient that is not zero")


@law()
def strides_of_the_input_do_not_matter(case: Case, kind: Kind) -> None:
    model = tuned(case, kind)
    x = inputs(kind, 4)
    strided = x.flip(0).transpose(0, -1).contiguous().transpose(0, -1).flip(0)
    every_other = torch.stack([x, x], 1).flatten(0, 1)[::2]
    require(not every_other.is_contiguous(), "the input should have strides")
    torch.testing.assert_close(model(strided), model(x))
    torch.testing.assert_close(model(every_other), model(x))


@law()
def a_bf16_base_computes_what_the_fp32_base_does(case: Case, kind: Kind) -> None:
    """With the adapter in fp32 on a bf16 base, as PEFT keeps it by default."""
    model = tuned(case, kind)
    x = inputs(kind, dtype=torch.bfloat16)
    want = model(x.float() if x.is_floating_point() else x)
    tuned_layer(model).base_layer.to(torch.bfloat16)
    y = model(x)
    require(y.dtype == torch.bfloat16, f"the output is {y.dtype}, expected torch.bfloat16")
    near(y, want, 2e-2, "the output of the bf16 base")
    y.float().pow(2).sum().backward()
    for name, p in adapter_parameters(model).items():
        require(p.grad is not None and p.grad.dtype == torch.float32, f"the gradient of {name} is not fp32")


@law(first=1)
def few_and_many_rows_take_different_orders_to_the_same_output(case: Case, kind: Kind) -> None:
    """The planner may bracket differently when rows outnumber the weight; the numbers must not."""
    model = tuned(case, kind, dtype=torch.float64)
    x = inputs(kind, 40, torch.float64)
    with torch.no_grad():
        many = model(x)
        near(many, torch.cat([model(part[None]) for part in x]), 1e-12, "the output of many rows")
        if kind.rows is rows_as_they_are:
            near(torch.stack([model(row) for row in x[0]]), many[0], 1e-12, "the output of single rows")
    near(model(x), many, 1e-12, "the output when gradients are wanted")
