"""How likely each option is before anything is asked: what is taken off its score in PMI.

Some options are likelier than others whatever the question, being common or short. Domain-conditional PMI (Holtzman et al.
2021, "Surface Form Competition: Why the Highest Probability Answer Isn't Always Right") takes off an option's
log-probability after a prompt that only leads to an answer, here `Answer:` in the prompt style at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flanlab.data.encoding import EncodedQuestion, Encoder, PromptStyle
from flanlab.models.answering import Answer, Question

NEUTRAL_PROMPT = "Answer:"

_Tokens = tuple[int, ...]


class NeutralScores:
    """Scores of options after the neutral prompt, each computed once for all the rows and templates given."""

    def __init__(self, encoder: Encoder, style: PromptStyle) -> None:
        self._encoder = encoder
        self._style = style
        self._encoded: dict[tuple[str, ...], EncodedQuestion] = {}
        self._scores: dict[tuple[_Tokens, _Tokens], tuple[float, float]] = {}

    def questions(self, option_sets: Iterable[tuple[str, ...]]) -> list[Question]:
        """What the model has to be asked for these sets of options: one question for each that has something new."""
        questions = []
        planned = set(self._scores)
        for options in dict.fromkeys(option_sets):
            encoded = self._encode(options)
            prompt = tuple(encoded.prompt)
            new = [option for option in encoded.answers if (prompt, tuple(option)) not in planned]
            if new:
                questions.append(Question(encoded.prompt, new))
                planned.update((prompt, tuple(option)) for option in new)
        return questions

    def learn(self, questions: Sequence[Question], answers: Sequence[Answer]) -> None:
        """Take in the answers to `questions`."""
        for question, answer in zip(questions, answers, strict=True):
            for option, *scores in zip(question.options, answer.scores, answer.scores_without_end, strict=True):
                self._scores[tuple(question.prompt), tuple(option)] = (scores[0], scores[1])

    def scores(self, options: tuple[str, ...]) -> tuple[list[float], list[float]]:
        """Log-probability of each option with its end token, and without; none where there are no options."""
        if not options:
            return [], []
        encoded = self._encode(options)
        found = [self._scores[tuple(encoded.prompt), tuple(option)] for option in encoded.answers]
        return [with_end for with_end, _ in found], [without for _, without in found]

    def _encode(self, options: tuple[str, ...]) -> EncodedQuestion:
        # Together, since where the prompt ends may depend on all of them, as it does for the question itself.
        if options not in self._encoded:
            self._encoded[options] = self._encoder.encode(NEUTRAL_PROMPT, options, self._style)
        return self._encoded[options]
