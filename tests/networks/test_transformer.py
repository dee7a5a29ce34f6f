from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import CONFIG, classifier_folder, encoder_folder

from plisse.core.batch import call
from plisse.core.modules import clone
from plisse.core.origin import Origin, origin_of
from plisse.data.text import pad
from plisse.errors import InputError, WeightsError
from plisse.networks.assets import assets, tokenizer_of
from plisse.networks.build import build
from plisse.networks.open import open_model

ENCODER = Origin("builtin", "sentence_encoder", {"config": CONFIG})


def test_embeddings_have_length_one_and_do_not_see_padding() -> None:
    model = build(ENCODER).eval()
    alone, padded = pad([[2, 5, 6, 3]]), pad([[2, 5, 6, 3], [2, 4, 5, 6, 7, 8, 9, 3]])
    with torch.inference_mode():
        embeddings = call(model, padded)
        assert embeddings.shape == (2, 16)
        assert torch.allclose(embeddings.norm(dim=-1), torch.ones(2))
        assert torch.allclose(call(model, alone)[0], embeddings[0], atol=1e-6)
        del alone["token_type_ids"]
        assert torch.allclose(call(model, alone)[0], embeddings[0], atol=1e-6)


def test_a_sentence_transformers_folder(tmp_path: Path) -> None:
    model = open_model(f"hf:{encoder_folder(tmp_path / 'encoder')}")
    assert not model.training
    assert origin_of(model).name == "sentence_encoder"
    assert not any("pooler" in name or "position_ids" in name for name in model.state_dict())
    again = build(origin_of(clone(model)))
    assert list(again.state_dict()) == list(model.state_dict())
    assert tokenizer_of(clone(model)).encode("the cat").ids == [5, 6]
    assert set(assets(model)) == {"tokenizer.json", "vocabulary.txt"}
    weights = tmp_path / "encoder" / "model.safetensors"
    reloaded = open_model(f"hf:{tmp_path / 'encoder'}", weights)
    name = "transformer.embeddings.word_embeddings.weight"
    assert torch.equal(reloaded.state_dict()[name], model.state_dict()[name])


def test_a_classifier_folder(tmp_path: Path) -> None:
    import transformers

    folder = classifier_folder(tmp_path / "classifier", labels=3)
    model = open_model(f"hf:{folder}")
    inputs = pad([[2, 5, 3], [2, 4, 6, 3]])
    expected = transformers.BertForSequenceClassification.from_pretrained(folder)(**inputs).logits
    assert torch.allclose(call(model, inputs), expected, atol=1e-6)
    origin = origin_of(model)
    assert (origin.kind, origin.name) == ("transformers", "AutoModelForSequenceClassification")
    again = build(Origin(**json.loads(json.dumps({**vars(origin), "arguments": dict(origin.arguments)}))))
    shapes = [{name: value.shape for name, value in net.state_dict().items()} for net in (model, again)]
    assert shapes[0] == shapes[1]


def test_a_folder_without_its_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        open_model(f"hf:{tmp_path / 'absent'}")
    with pytest.raises(InputError, match=r"config\.json"):
        open_model(f"hf:{tmp_path}")
    with pytest.raises(InputError, match="hf:DIR"):
        open_model("hf")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="expected JSON"):
        open_model(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        open_model(f"hf:{tmp_path}")


def test_weights_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "encoder")
    (folder / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": 99}))
    with pytest.raises(WeightsError, match=r"word_embeddings.weight' of shape \(14, 16\).*\(99, 16\)"):
        open_model(f"hf:{folder}")


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "llama"},
        {"model_type": None},
        {"vocab_size": 10**9},
        {"num_hidden_layers": 10**6},
        {"hidden_size": 10**6, "num_attention_heads": 10},
        {"hidden_size": 15},
        {"hidden_size": -16},
        {"num_attention_heads": 0},
        {"hidden_size": "wide"},
        {"hidden_act": "evil"},
        {"text_config": {"nested": {"deep": 1}}},
    ],
    ids=lambda change: "-".join(f"{key}={str(value)[:9]}" for key, value in change.items()),
)
def test_hostile_configurations_are_refused(change: dict[str, object]) -> None:
    for origin in (
        Origin("builtin", "sentence_encoder", {"config": {**CONFIG, **change}}),
        Origin("transformers", "AutoModel", {**CONFIG, **change}),
    ):
        with pytest.raises(InputError):
            build(origin)


def test_nothing_in_a_configuration_names_code() -> None:
    change = {
        "auto_map": {"AutoModel": "evil/repo--code.Model"},
        "_attn_implementation": "evil/kernels",
        "attn_implementation": "evil/kernels",
        "quantization_config": {"quant_method": "bitsandbytes"},
    }
    model = build(Origin("transformers", "AutoModel", {**CONFIG, **change}))
    assert type(model).__name__ == "BertModel"
    with pytest.raises(InputError, match="one of AutoModel"):
        build(Origin("transformers", "pipeline", CONFIG))


def test_a_config_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(InputError):
        build(Origin("builtin", "sentence_encoder", {"config": 7}))
    with pytest.raises(InputError):
        build(Origin("builtin", "sentence_encoder"))
