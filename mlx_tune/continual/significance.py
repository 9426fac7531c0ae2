"""Exact paired tests of the same questions, asked before and after: McNemar's and the sign test.

Only questions that changed count. Were nothing lost, a change for the worse would be as likely as
one for the better, so their number follows a binomial distribution with p = 1/2.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PairedChanges:
    """How many of the same questions do worse than before, and how many better.

    Attributes:
        worse: Questions that did better before.
        better: Questions that do better now; those that do the same are in neither number.
    """

    worse: int
    better: int

    @property
    def p(self) -> float:
        """The two-sided exact p-value, 1 where nothing changed.

        The sums are of whole numbers, so it is exact for any number of changes. The exact test is
        conservative (Fagerland et al. 2013), which here means that a person is asked.
        """
        changes = self.worse + self.better
        ways = tail = 1
        for k in range(min(self.worse, self.better)):
            ways = ways * (changes - k) // (k + 1)  # the binomial coefficient, one k further
            tail += ways
        return min(2 * tail / 2**changes, 1.0)  # an even split counts its middle twice

    def is_loss(self, significance: float) -> bool:
        """Tell whether more do worse than better, significantly.

        Args:
            significance: The level that p has to be below, 0 to 1.
        """
        return self.worse > self.better and self.p < significance


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> PairedChanges:
    """Compare which questions were, and are, answered right.

    Args:
        before: One flag a question.
        after: The same questions in the same order.

    Raises:
        ValueError: They are not equally many.

    Source:
        McNemar 1947, Psychometrika 12:153-157; the exact form as in Fagerland, Lydersen and Laake
        2013, BMC Medical Research Methodology 13:91.
    """
    pairs = list(zip(before, after, strict=True))
    return PairedChanges(
        worse=sum(had and not has for had, has in pairs),
        better=sum(has and not had for had, has in pairs),
    )


def sign_test(before: Sequence[float], after: Sequence[float]) -> PairedChanges:
    """Compare losses; a higher one is worse, equal ones say nothing.

    Args:
        before: One loss a question, in nats.
        after: The same questions in the same order.

    Raises:
        ValueError: They are not equally many.

    Source:
        Dixon and Mood 1946, Journal of the American Statistical Association 41:557-566.
    """
    pairs = list(zip(before, after, strict=True))
    return PairedChanges(
        worse=sum(has > had for had, has in pairs),
        better=sum(has < had for had, has in pairs),
    )
