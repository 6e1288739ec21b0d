"""Every method that is a map of the weight, on every kind of convolution, beside patches gathered index by index."""

import pytest
import torch
from peft import get_peft_model
from torch import nn

from cases import SINGLE, case, each
from subspace_tuning import SSB, LoRA, SubspaceConfig
from subspace_tuning.methods import DoRA, Parallel
from subspace_tuning.testing import laws  # noqa: F401  (fills LAWS)
from subspace_tuning.testing.convolutions import CONVOLUTIONS
from subspace_tuning.testing.law import LAWS
from subspace_tuning.weights import Unsupported

TOLD = ["forward_is_the_dense_truth", "merged_weight_is_the_dense_truth"]
FEW = [case(SSB()), case(LoRA(r=2)), case(DoRA(r=2))]  # scales, two thin factors, and one that reads W


@each(kind=CONVOLUTIONS, law=TOLD)
def test_every_map_of_the_weight(kind, law):
    maps = [one for one in SINGLE if one.resolved.mergeable]
    tried = list(LAWS[law].instances(maps, [kind]))
    assert len(tried) > 30
    for instance in tried:
        instance.holds()


@each(kind=[kind for kind in CONVOLUTIONS if str(kind) in ("conv1d_torch", "conv_transposed2d", "conv_grouped")])
def test_all_laws_that_look_at_more_than_a_matrix(kind):
    for law in [law for law in LAWS.values() if law.first is None]:
        for instance in law.instances(FEW, [kind]):
            instance.holds()


@each(mode=["reflect", "circular", "replicate"])
def test_padding_of_every_mode(mode):
    conv = nn.Conv1d(4, 6, 3, padding=2, padding_mode=mode)
    net, x = nn.Sequential(conv), torch.randn(2, 4, 9)
    model = get_peft_model(
        net, SubspaceConfig(method=SSB() | LoRA(r=2), target_modules=["0"], init_weights=False)
    ).eval()
    tuned = model(x)
    assert model(x[0]).shape == tuned[0].shape  # without a batch
    torch.testing.assert_close(model(x[0]), tuned[0])
    torch.testing.assert_close(model.merge_and_unload()(x), tuned)


@each(method=[Parallel(r=2), LoRA(r=2, dropout=0.1), LoRA(r=2, init="eva")])
def test_what_needs_rows_has_no_seat_on_groups(method):
    net = nn.Sequential(nn.Conv1d(4, 6, 3, groups=2))
    with pytest.raises(Unsupported, match="no row meets all of the weight of Conv1d"):
        get_peft_model(net, SubspaceConfig(method=method, target_modules=["0"]))
