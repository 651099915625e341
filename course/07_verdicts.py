# %% [markdown]
# # 7. What replicates: exercises
#
# The chapter of the book: *What replicates* (`chapters/07_what_replicates`). No model is needed. Written in this room, used in the verdict court
# of session two.

# %%
import math

from checks import verdicts as check

# %% [markdown] exercise="7.1"
# ## 7.1 A rule for verdicts
#
# *Write, then let a peer attack it · medium · 30 minutes*
#
# A claim says: *the effect is larger than `floor`* (what would come out if there were no effect; not always 0). Write
# `verdict(value, low, high, floor)`: one of "replicates", "partly", "does not", "could not be tested". Numbers that are missing are NaN.
#
# The court: "replicates" if the whole interval lies above the floor; "partly" if the value does and the interval does not; "does not" if
# the value does not; "could not be tested" without an interval. Fix the rule *before* you look at any result, and then give it to a peer
# who tries to break it.
#
# **Why it matters.** A rule that is written down before the results are in binds its author. Everything else is a judgement that knows what it wants.
#
# <details><summary>Open hint 1: signature</summary>
#
# `def verdict(value, low, high, floor) -> str`
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# NaN first, as every comparison with NaN is False. Then the interval; then the value.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# if any(math.isnan(one) for one in (value, low, high)):
#     return "could not be tested"
# if ...:                # the whole interval lies above the floor
#     return "replicates"
# return "partly" if value > floor else "does not"
# ```
#
# </details>

# %% tags=["solution"]
def verdict(value, low, high, floor):
    # BEGIN SOLUTION
    if any(math.isnan(one) for one in (value, low, high)):
        return "could not be tested"
    if low > floor:
        return "replicates"
    return "partly" if value > floor else "does not"
    # END SOLUTION


# %% tags=["check"]
check.rule(verdict)
check.rule(verdict, cases=slice(6, 8))

# %% tags=["hidden"]
check.rule(verdict, cases=slice(6, 10))

# %% [markdown] tags=["question"]
# **Judge.** Your rule never says "the same size as in the paper". Should it? What would a claim have to state for that, and how would the number
# of prompts decide the verdict?

# %% [markdown] tags=["answer"]
# Only if the claim is about a size: then it needs a margin stated beforehand ("within a third"), and equivalence is shown when the whole
# interval lies inside the margin. With few prompts nothing is ever equivalent, and with a rule "no significant difference" everything is.

# %% [markdown] exercise="7.2"
# ## 7.2 Attack three rules
#
# *Find cases · easy · 15 minutes*
#
# Three rules from the wild: `by_value` says "replicates" if the value is above the floor; `by_upper_end` if the upper end of the interval
# is; `above_zero` if the lower end is above 0. Put into `attacks` for each a case `(value, low, high, floor)` in which it says "replicates"
# and should not (the lower end is not above the floor). For `by_upper_end` take one that even `by_value` gets right.
#
# **Why it matters.** Reading a rule one nods; attacking it one finds what it does not look at.
#
# <details><summary>Open hint 1: signature</summary>
#
# `attacks = {"by_value": (0.2, ..., ..., 0.0), ...}`; the value lies in its interval.
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# `by_value` never looks at the interval; `by_upper_end` is pleased by wide ones; `above_zero` forgets that chance is not always 0.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# attacks = {
#     "by_value": (0.2, -0.3, 0.7, 0.0),
#     "by_upper_end": (-0.1, -0.6, 0.4, 0.0),
#     "above_zero": ...,  # an interval above 0 that contains a floor such as 0.14
# }
# ```
#
# </details>

# %% tags=["solution"]
attacks = {
    # BEGIN SOLUTION
    "by_value": (0.2, -0.3, 0.7, 0.0),
    "by_upper_end": (-0.1, -0.6, 0.4, 0.0),
    "above_zero": (0.16, 0.10, 0.22, 0.14),
    # END SOLUTION
}


# %% tags=["check"]
check.attack(attacks)

# %% tags=["hidden"]
check.attack(attacks)

# %% [markdown] tags=["question"]
# **Judge.** Which of the three have you met in a paper, and how was it worded there? Write the sentence, and what it should have said.

# %% [markdown] tags=["answer"]
# For example "accuracy improved from 0.42 to 0.47" (by value); "the results are consistent with an effect" (upper end); "significantly above
# zero" for a task with a chance level of 1 in 7 (above zero). Each should name floor, interval and n.

# %% [markdown] exercise="7.3"
# ## 7.3 What luck would do
#
# *Compute · medium · 15 minutes*
#
# Eighteen claims, each judged by a 95% interval. Suppose there were no effect at all in any, and the claims were independent. Write
# `by_luck(k, n)`: how likely at least `k` of `n` would still replicate, that is, have the lower end of the interval above the floor.
#
# **Why it matters.** "11 of 18 replicate" is a result only beside what chance gives; and one of twenty checks failing is no news either.
#
# <details><summary>Open hint 1: signature</summary>
#
# `def by_luck(k, n) -> float`; `scipy.stats.binom` has `pmf`, `cdf` and `sf`.
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# One claim replicates by luck if the interval misses on one side: 2.5%. At least k is 1 minus at most k - 1.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# from scipy import stats
# return float(stats.binom.sf(..., n, 0.025))   # sf(x) is the chance of more than x
# ```
#
# </details>

# %% tags=["solution"]
def by_luck(k, n):
    # BEGIN SOLUTION
    from scipy import stats

    return float(stats.binom.sf(k - 1, n, 0.025))
    # END SOLUTION


# %% tags=["check"]
check.luck(by_luck)

# %% tags=["hidden"]
check.luck(by_luck, cases=((2, 5), (5, 40)))

# %% [markdown] tags=["question"]
# **Judge.** The claims of this book are *not* independent: most are about the same prompts and heads. In which direction does that change your number
# for "at least 11 of 18", and does it change your conclusion?

# %% [markdown] tags=["answer"]
# Dependence makes extremes likelier: one unlucky draw moves many claims together, so 11 by luck is less impossible than the binomial says.
# Fresh prompts, another seed and another model are the answer, and not a correction on the same data.
