# %% [markdown]
# # 2. Fine-tuned models: exercises
#
# The chapter of the book: *Fine-tuned models* (`chapters/02_finetuned_models`). No model is needed: who was right on 2,002 prompts is
# stored for the base model and for eleven trainings, one matrix for the last exercise.

# %%
import torch
from checks import stored
from checks import tuning as check

d = stored.load("tuning")
print({name: round(one.double().mean().item(), 3) for name, one in d.at.items() if name[-1] in "012"})

# %% [markdown] exercise="2.1"
# ## 2.1 A paired difference
#
# *Write · medium · 10 minutes*
#
# Write `paired(after, before, contexts)`: the mean gain, and its 95% interval by a bootstrap over contexts, in which both
# models keep their answers to the same contexts. 2,000 draws; give `(value, low, high)`.
#
# **Why it matters.** Two intervals that overlap say little: a hard context is hard for both models. Paired, what they share cancels, and the same
# answers tell much more.
#
# <details><summary>Open hint 1: signature</summary>
#
# `def paired(after, before, contexts)`; all of shape (n,); the first two are bool; contexts have equally many prompts.
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# The difference of each prompt first; then everything as in exercise 1.2, on differences.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# gain = ...             # after minus before as numbers, one a prompt
# means = torch.stack([gain[contexts == c].mean() for c in contexts.unique()])
# drawn = means[torch.randint(len(means), (2000, len(means)))].mean(1)
# low, high = drawn.quantile(torch.tensor([0.025, 0.975], dtype=torch.double))
# return float(gain.mean()), float(low), float(high)
# ```
#
# </details>

# %% tags=["solution"]
def paired(after, before, contexts):
    # BEGIN SOLUTION
    gain = after.double() - before.double()
    means = torch.stack([gain[contexts == c].mean() for c in contexts.unique()])
    drawn = means[torch.randint(len(means), (2000, len(means)))].mean(1)
    low, high = drawn.quantile(torch.tensor([0.025, 0.975], dtype=torch.double))
    return float(gain.mean()), float(low), float(high)
    # END SOLUTION


# %% tags=["check"]
check.paired(paired)
check.paired(paired, alike=True)

# %% tags=["hidden"]
check.paired(paired, kind="arithmetic")

# %% [markdown] tags=["question"]
# **Judge.** The gain of `code` is far from zero with 2,002 prompts. Which question about *training on code* does this interval not
# answer, however many prompts one takes?

# %% [markdown] tags=["answer"]
# Whether another training on code would do the same: it is an interval over prompts for one training. Another seed, other data
# or another order may give another gain; only more trainings tell (the next exercise).

# %% [markdown] exercise="2.2"
# ## 2.2 Three trainings
#
# *Write · easy · 10 minutes*
#
# Write `over_seeds(gains)`: the mean gain of a few trainings and its 95% interval by Student's t, `(mean, low, high)`.
# `scipy.stats.t.ppf` has the quantiles.
#
# **Why it matters.** The claim is about a kind of training, so trainings are what is sampled. With three of them the honest interval is wide, and
# saying so is part of the result.
#
# <details><summary>Open hint 1: signature</summary>
#
# `def over_seeds(gains)`; `gains` is a tensor of k numbers.
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# Mean; spread with k - 1; standard error; times the 0.975 quantile of t with k - 1 degrees of freedom.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# from scipy import stats
# k = len(gains)
# half = ...             # stats.t.ppf(0.975, k - 1) * spread / sqrt(k); tensor.std() divides by k - 1
# return float(gains.mean()), float(gains.mean() - half), float(gains.mean() + half)
# ```
#
# </details>

# %% tags=["solution"]
def over_seeds(gains):
    # BEGIN SOLUTION
    from scipy import stats

    half = stats.t.ppf(0.975, len(gains) - 1) * float(gains.std()) / len(gains) ** 0.5
    return float(gains.mean()), float(gains.mean()) - half, float(gains.mean()) + half
    # END SOLUTION


# %% tags=["check"]
check.seeds(over_seeds)

# %% tags=["hidden"]
check.seeds(over_seeds, gains=(0.1, -0.02, 0.05, 0.0))

# %% [markdown] tags=["question"]
# **Judge.** Three trainings gave +0.16, +0.21, +0.19. A reviewer asks for ten. What would you expect to change in the mean, and what in
# the interval? When would you refuse to pay for the seven trainings?

# %% [markdown] tags=["answer"]
# The mean little, the interval much (t falls from 4.3 to 2.3, and the square root of n grows): about a third of the width. If the
# interval of three already excludes what would change the conclusion, more trainings only decorate it.

# %% [markdown] exercise="2.3"
# ## 2.3 Choose the control
#
# *Choose and compute · easy · 10 minutes*
#
# Stored are the answers after `arithmetic`, `code`, `code-binding`, `code-other` (the two halves of the programs) and
# `shuffled` (programs of the same form with the answers of other programs). Which one is the control for the question *does
# learning what programs do improve tracking*? Set `control` to its name, and `over_control` to the accuracy of `code` minus that
# of the control (seed 0; `check.answers(kind)` gives the answers).
#
# **Why it matters.** A training changes much besides what it teaches: the form of answers, the rate of certain words, the weights as such. A
# control has all of this and lacks just what the claim is about.
#
# <details><summary>Open hint 1: signature</summary>
#
# `control` is one of the five words; `over_control` is a number.
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# Ask for each candidate: what does it share with `code`, and what does it lack?
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# control = ...          # the same programs, the same form, nothing to be learned from them
# over_control = float(check.answers("code").double().mean() - check.answers(control).double().mean())
# ```
#
# </details>

# %% tags=["solution"]
control = "shuffled"  # SOLUTION
over_control = float(check.answers("code").double().mean() - check.answers(control).double().mean())  # SOLUTION


# %% tags=["check"]
check.control(control, over_control)

# %% tags=["hidden"]
check.control(control, over_control)

# %% [markdown] tags=["question"]
# **Judge.** The control itself changes tracking, too. Give two reasons why it may, and say which of them would weaken the claim about
# code.

# %% [markdown] tags=["answer"]
# It teaches the form of an answer (more, or fewer, objects said), which top-1 counts: harmless, and the choice shows it. Or
# shuffled answers teach it *not* to look things up: then part of "code minus control" is damage done by the control, and the gain
# over the base should be reported beside it.

# %% [markdown] exercise="2.4"
# ## 2.4 Format and tracking
#
# *Write · medium · 15 minutes*
#
# Write `split(top_before, top_after, chosen_before, chosen_after)`: the gain in top-1 in two parts that sum to it. *Tracking*
# is what the choice among the objects gains, *format* the rest. Give `(tracking, format)`.
#
# **Why it matters.** A model that learned to answer with one noun looks better at tracking. Half of a published gain can be of this kind.
#
# <details><summary>Open hint 1: signature</summary>
#
# All four are (n,) bool; gives two floats.
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# Gain of top-1, gain of the choice; the second is tracking; what is left of the first is format.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# top = float(top_after.double().mean() - top_before.double().mean())
# tracking = ...         # the same of the choice
# return tracking, top - tracking
# ```
#
# </details>

# %% tags=["solution"]
def split(top_before, top_after, chosen_before, chosen_after):
    # BEGIN SOLUTION
    top = float(top_after.double().mean() - top_before.double().mean())
    tracking = float(chosen_after.double().mean() - chosen_before.double().mean())
    return tracking, top - tracking
    # END SOLUTION


# %% tags=["check"]
check.split(split)

# %% tags=["hidden"]
check.split(split, kind="shuffled")

# %% [markdown] tags=["question"]
# **Judge.** The format part can be negative though the training is a success. How? And when is this split not to be trusted?

# %% [markdown] tags=["answer"]
# Top-1 may gain less than the choice if the model now says other words than objects more often. The split takes the two as
# additive: where accuracy is near its ceiling, or where a training changes which object is preferred *because* of its form (a
# frequent noun), a part of format goes into the choice.

# %% [markdown] exercise="2.5"
# ## 2.5 Merge a LoRA matrix by hand
#
# *Write · easy · 15 minutes*
#
# An adapter stores for a matrix W (out, in) two thin ones, A (rank, in) and B (out, rank). Write
# `merge(weight, a, b, rank, alpha)`: the matrix of the fine-tuned model. The hidden check is the key matrix of layer 14 of the
# real model with the adapter `code`.
#
# **Why it matters.** All comparisons of the book need two models of one shape. Seeing that the tuned one is the base plus a matrix of rank 16 also
# says what could be tried: leave the sum out in single layers.
#
# <details><summary>Open hint 1: signature</summary>
#
# `def merge(weight, a, b, rank, alpha)` gives a new (out, in) tensor and leaves `weight` as it is.
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# B times A has the shape of W; it is scaled by alpha / rank and added.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# added = ...            # the product with shape (out, in)
# return weight + alpha / rank * added
# ```
#
# </details>

# %% tags=["solution"]
def merge(weight, a, b, rank, alpha):
    # BEGIN SOLUTION
    return weight + alpha / rank * (b @ a)
    # END SOLUTION


# %% tags=["check"]
check.merge(merge)

# %% tags=["hidden"]
check.merge(merge, real=True)

# %% [markdown] tags=["question"]
# **Judge.** Here only q, k, v and o were adapted. Does it follow that whatever improved happens in attention?

# %% [markdown] tags=["answer"]
# No. The changed matrices change what the MLPs receive, and these may do more with it. Weights that were changed and computations
# that improved are two things; chapter 6 separates them (new weights or new inputs).
