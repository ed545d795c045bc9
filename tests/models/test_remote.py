"""A model behind an endpoint gives the scores and texts of the same model here; and what servers lack is noticed."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from flanlab.data.encoding import CharacterEncoder, Encoder, PromptStyle, TextEncoder
from flanlab.errors import FlanlabError
from flanlab.models.answering import Answer, Model, Question
from flanlab.models.completions import Completions, Endpoint
from flanlab.models.loading import LoadedModel
from flanlab.models.remote import RemoteModel, _log_probabilities, _placed_tokens, open_remote_model
from tests.completions_server import Served, fails, serve
from tests.tiny import make_tokenizer, stock_model

ASKED = [
    ("The soup was cold.\nIs this comment positive or negative?", ["negative", "positive"]),
    ("Which number comes after seven?", ["eight", "two", "twenty-nine and a half", "0"]),
    ("The quick brown fox jumps over the lazy", ["dog", "capital of the country", "film, maybe"]),
    ("Answer with one word.", ["yes", "no", "true, or false"]),
]


@pytest.fixture
def served(tiny_folder: Path) -> Iterator[Served]:
    with serve(tiny_folder) as running:
        yield running


@pytest.fixture
def opened(served: Served, tmp_path: Path, tiny_folder: Path) -> Any:
    """Opens the served model: `opened(tokenizer=True)`."""
    numbers = itertools.count()

    def open_(tokenizer: bool = False, **changes: Any) -> RemoteModel:
        endpoint = Endpoint(served.url, str(tiny_folder) if tokenizer else None, **changes)
        return open_remote_model("tiny", endpoint, tmp_path / f"{next(numbers)}.sqlite")

    return open_


def questions(encoder: Encoder, style: PromptStyle = "instruction", new_tokens: int = 8) -> list[Question]:
    asked = []
    for prompt, options in ASKED:
        encoded = encoder.encode(prompt, options, style)
        asked.append(Question(encoded.prompt, encoded.answers, new_tokens, frozenset({encoder.end}), encoder.newline_tokens))
    return asked


def replies(model: Model, style: PromptStyle = "instruction") -> list[Answer]:
    found = dict(model.answer(questions(model.encoder, style), 4096))
    return [found[place] for place in range(len(ASKED))]


@pytest.mark.parametrize("style", ["instruction", "chat", "baseline"])
def test_token_ids_give_the_local_scores_and_texts(style: PromptStyle, opened: Any, tiny: LoadedModel) -> None:
    remote = opened(tokenizer=True)
    assert remote.scoring == "log-probabilities"
    for ours, theirs in zip(replies(tiny, style), replies(remote, style), strict=True):
        assert theirs.scores == pytest.approx(ours.scores, abs=1e-4)
        assert theirs.scores_without_end == pytest.approx(ours.scores_without_end, abs=1e-4)
        assert theirs.option_tokens == ours.option_tokens
        assert theirs.text == ours.text
    assert any(reply.text for reply in replies(remote, style)), "something was generated"


@pytest.mark.parametrize("start_token", [False, True])
@pytest.mark.parametrize("style", ["instruction", "baseline"])
def test_text_gives_the_local_scores_without_end(
    style: PromptStyle, start_token: bool, served: Served, opened: Any, tiny: LoadedModel
) -> None:
    served.start_token = start_token
    remote = opened()
    assert all(isinstance(payload["prompt"], str) for payload in served.asked)
    for ours, theirs in zip(replies(tiny, style), replies(remote, style), strict=True):
        assert theirs.scores == theirs.scores_without_end
        assert theirs.scores == pytest.approx(ours.scores_without_end, abs=1e-4)
        assert theirs.option_tokens == ours.option_tokens
        assert theirs.text == ours.text


def test_token_that_spans_the_join_counts_to_the_answer(opened: Any, tiny_folder: Path) -> None:
    """One option is read as part of a longer word, so all options are scored from where that word begins."""
    context, options = "Is this comment about a film posi", ["tive", "x"]
    encoder, reference = TextEncoder(make_tokenizer()), stock_model(tiny_folder)
    whole = [encoder._tokens([context + option])[0] for option in options]
    common = next(place for place, (one, other) in enumerate(zip(*whole, strict=False)) if one != other)
    assert len(encoder.decode(whole[0][:common])) < len(context), "the tokenizer merges over the join"
    expected = []
    for ids in whole:
        with torch.inference_mode():
            logits = reference(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        expected.append(sum(logits[place - 1, ids[place]].item() for place in range(common, len(ids))))
    characters = CharacterEncoder()
    prompt = [ord(letter) for letter in context]
    asked = Question(prompt, [[*map(ord, option), characters.end] for option in options])
    ((_, reply),) = opened().answer([asked], 1)
    assert reply.scores == pytest.approx(expected, abs=1e-4)
    assert reply.option_tokens == [len(ids) - common + 1 for ids in whole]


@pytest.mark.parametrize(
    ("says", "answer"), [("yes", "yes"), (" yes\nno", "yes"), ("\n\n yes \nno", "yes"), ("\n", ""), ("", "")]
)
def test_answer_is_the_first_line_with_text(says: str, answer: str, served: Served, opened: Any) -> None:
    remote = opened()
    served.says = says
    assert {reply.text for reply in replies(remote)} == {answer}


def test_answer_of_several_lines_is_kept_whole(served: Served, opened: Any) -> None:
    remote = opened()
    served.says = "yes\nno"
    ((_, reply),) = remote.answer([Question([ord("a")], [], 8)], 1)
    assert reply.text == "yes\nno"


def test_server_without_log_probabilities(served: Served, opened: Any, tiny: LoadedModel) -> None:
    served.log_probabilities = False
    remote = opened()
    assert remote.scoring == "generation"
    assert "does not give log-probabilities" in remote.scoring_reason
    for ours, theirs in zip(replies(tiny), replies(remote), strict=True):
        assert theirs.scores == theirs.scores_without_end == []
        assert theirs.text == ours.text


def test_server_that_refuses_log_probabilities(served: Served, opened: Any) -> None:
    served.faults = [fails(400, "echo is not supported")]
    remote = opened()
    assert remote.scoring == "generation"
    assert "echo is not supported" in remote.scoring_reason


@pytest.mark.parametrize("found", [["a", "list"], "text", 3, {"token_logprobs": ["-1.0", "-2.0"]}])
def test_log_probabilities_of_another_form_are_none(found: Any) -> None:
    assert _log_probabilities({"choices": [{"text": "", "logprobs": found}]}) is None
    with pytest.raises(FlanlabError, match="not found among the tokens"):
        _placed_tokens({"choices": [{"text": "", "logprobs": found}]}, "a yes", 2)


def test_log_probabilities_beside_the_wrong_tokens_are_noticed(served: Served, opened: Any) -> None:
    """llama-cpp-python returns such ones for models without a start token."""
    served.misplaced = True
    remote = opened()
    assert remote.scoring == "generation"
    assert "with the wrong tokens" in remote.scoring_reason


def test_server_that_takes_no_ids(served: Served, opened: Any) -> None:
    served.takes_ids = False
    with pytest.raises(FlanlabError, match="422: prompt: a text is expected") as caught:
        opened(tokenizer=True)
    assert "leave out --tokenizer" in caught.value.hint
    assert opened().scoring == "log-probabilities"


def test_tokenizer_of_another_model_is_noticed(served: Served, tmp_path: Path) -> None:
    other = make_tokenizer()
    vocabulary = other.get_vocab()
    state = other.backend_tokenizer.to_str().replace(f'"e":{vocabulary["e"]}', '"e":-1')
    state = state.replace(f'"a":{vocabulary["a"]}', f'"a":{vocabulary["e"]}').replace('"e":-1', f'"e":{vocabulary["a"]}')
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(state), eos_token="<|end|>").save_pretrained(tmp_path / "other")
    with pytest.raises(FlanlabError, match="not the one of the model behind the endpoint"):
        open_remote_model("tiny", Endpoint(served.url, str(tmp_path / "other")), tmp_path / "kept.sqlite")


@pytest.mark.parametrize("value", [None, math.nan, -math.inf, 2.0, 10**400, -(10**400)], ids=lambda value: str(value)[:9])
@pytest.mark.parametrize("by_ids", [False, True], ids=["text", "ids"])
def test_what_is_no_log_probability_is_refused_and_asked_for_again(
    value: Any, by_ids: bool, served: Served, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = Endpoint(served.url, str(tiny_folder) if by_ids else None)
    remote = open_remote_model("tiny", endpoint, tmp_path / "kept.sqlite")
    send = Completions._send

    def spoiled(self: Completions, *arguments: Any) -> str:
        content = json.loads(send(self, *arguments))
        if content["choices"][0]["logprobs"]:
            content["choices"][0]["logprobs"]["token_logprobs"][-2] = value
        return json.dumps(content)

    with monkeypatch.context() as patch:
        patch.setattr(Completions, "_send", spoiled)
        with pytest.raises(FlanlabError, match=r"did not return the log-prob|not found among|returned 0 log-prob"):
            replies(remote)
    again = open_remote_model("tiny", endpoint, tmp_path / "kept.sqlite")
    assert all(math.isfinite(score) for answer in replies(again) for score in answer.scores)
    asked = len(served.asked)
    replies(open_remote_model("tiny", endpoint, tmp_path / "kept.sqlite"))
    assert len(served.asked) == asked, "all is kept"


def test_count_of_log_probabilities_is_checked(served: Served, opened: Any) -> None:
    remote = opened(tokenizer=True)
    served.start_token = True
    with pytest.raises(FlanlabError, match="log-probabilities for"):
        replies(remote)


def test_no_more_requests_under_way_than_allowed(served: Served, opened: Any) -> None:
    replies(opened(parallel=2))
    assert served.most_at_once <= 2
    assert len(served.asked) > 8


def test_identity_follows_address_name_and_tokenizer(served: Served, opened: Any, tmp_path: Path) -> None:
    by_text, by_ids = opened(), opened(tokenizer=True)
    other = open_remote_model("other", Endpoint(served.url), tmp_path / "other.sqlite")
    assert len({by_text.identity, by_ids.identity, other.identity}) == 3
    assert opened().identity == by_text.identity
    assert by_text.stamp is None


@pytest.mark.parametrize("offsets", [["x", 1], [None, 1], {"0": 1}, "01", 7, [0.0, 1.0], [0], None])
def test_odd_offsets_are_counted_again(offsets: Any) -> None:
    choice = {"text": "ab", "logprobs": {"tokens": ["a", "b"], "token_logprobs": [None, -1.0], "text_offset": offsets}}
    assert [token.value for token in _placed_tokens({"choices": [choice]}, "ab", 1)] == [None, -1.0]
