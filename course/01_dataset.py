# %% [markdown]
# # 1. The task and how well the model does it: exercises
#
# The chapter of the book: *The task and how well the model does it* (`chapters/01_dataset`). No model is needed here: its answers
# to 490 prompts are stored in `data/behaviour.safetensors`.
#
# Each exercise says what to write and why; three hints are folded below it, each of which says more when
# you click on it. Run the check whenever
# you like. The question after it has no check: write two or three sentences.

# %%
import torch
from checks import dataset as check
from checks import stored

d = stored.load("behaviour")
correct = d.top == d.answer_ids
print(len(correct), "prompts of", len(d.contexts.unique()), "contexts; right:", round(correct.double().mean().item(), 3))

# %% [markdown] exercise="1.1"
# ## 1.1 Where did this label stand before?
#
# *Write · easy · 10 minutes*
#
# A prompt ends with "Box F contains the": the label asked for is the third token from the end (`query`). Write `find_prev`,
# which gets the token ids of one prompt, shape (T,), and gives the index at which this token stands in the statement about
# its box (`prev`).
#
# **Why it matters.** Everything in the later chapters happens at named positions. Who is off by one token patches the wrong
# thing and gets numbers that look fine.
#
# <details><summary>Open hint 1: signature</summary>
#
# `def find_prev(ids: torch.Tensor) -> int`; for a prompt of 53 tokens the query label is `ids[50]`.
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# Take the label's id; find all places with this id; give the first of them.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# label = ids[-3]
# places = ...          # indices where ids equals label: torch.nonzero helps
# return int(places[0])
# ```
#
# </details>

# %% tags=["solution"]
def find_prev(ids):
    # BEGIN SOLUTION
    return int((ids == ids[-3]).nonzero()[0])
    # END SOLUTION


# %% tags=["check"]
check.prev(find_prev)

# %% tags=["hidden"]
check.prev(find_prev, first=210)

# %% [markdown] tags=["question"]
# **Judge.** Your function looks for a token. Name a prompt that a person could answer and for which it would point to the
# wrong place, and say whether the prompts of this book can contain it.

# %% [markdown] tags=["answer"]
# A label that also occurs as a word of its own before its statement ("A" at the start of a sentence, or a label used twice)
# would be found too early. Labels of a context differ and nouns are no single capital letters, so it cannot happen here; with
# another template or tokenizer it can, which is why the library takes positions from how the text was written and not from a
# search.

# %% [markdown] exercise="1.2"
# ## 1.2 The interval
#
# *Write · medium · 15 minutes*
#
# Write `interval(correct, contexts)`: the 95% interval of the accuracy by a bootstrap over contexts. Draw as many contexts
# as there are, with replacement, each with all its prompts; take the mean; do so 2,000 times; give the middle 95% as
# `(low, high)`. Six lines are enough.
#
# **Why it matters.** The seven prompts of a context share nearly all their words. An interval over prompts claims evidence
# that is not there, and half of the "effects" of a weak study are found that way.
#
# <details><summary>Open hint 1: signature</summary>
#
# `def interval(correct, contexts) -> tuple[float, float]`; both arguments have shape (n,); each context has equally many
# prompts here.
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# One mean a context first: all contexts have the same size, so the mean of the means is the accuracy. Then draw indices of
# contexts, 2,000 rows of them at once, and average along a row.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# means = torch.stack([correct[contexts == c].double().mean() for c in contexts.unique()])
# drawn = ...           # (2000, contexts) indices: torch.randint
# low, high = means[drawn].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.double))
# return float(low), float(high)
# ```
#
# </details>

# %% tags=["solution"]
def interval(correct, contexts):
    # BEGIN SOLUTION
    means = torch.stack([correct[contexts == c].double().mean() for c in contexts.unique()])
    drawn = torch.randint(len(means), (2000, len(means)))
    bounds = torch.tensor([0.025, 0.975], dtype=torch.double)
    low, high = means[drawn].mean(1).quantile(bounds)
    return float(low), float(high)
    # END SOLUTION


# %% tags=["check"]
check.interval(interval)
check.interval(interval, clustered=True)

# %% tags=["hidden"]
check.interval(interval, clustered=True)

# %% [markdown] tags=["question"]
# **Judge.** Compute the interval over prompts, too (every prompt its own context). The two hardly differ here. Does that
# mean one may take prompts next time? What would have to be true of the model's mistakes for the intervals to differ much?

# %% [markdown] tags=["answer"]
# It says that here mistakes hardly cluster by context: the place asked for matters more than the context. That is a finding,
# not a licence: it is known only because both were computed. If whole contexts were easy or hard (rare nouns, say), the
# interval over prompts would be up to the square root of seven times too narrow.

# %% [markdown] exercise="1.3"
# ## 1.3 Right among the objects
#
# *Write · easy · 10 minutes*
#
# Top-1 asks two things at once: which object, and that an object is said at all. Write `chosen(objects, object_ids,
# answer_ids)`: for each prompt, whether the right object has a higher log-probability than each of the other six. Where two
# share the highest place, nobody is right.
#
# **Why it matters.** Fine-tuning can teach a model to answer in another form without tracking anything better. Only a
# measure that leaves the form out can tell.
#
# <details><summary>Open hint 1: signature</summary>
#
# `def chosen(objects, object_ids, answer_ids)`; (n, 7) log-probabilities, (n, 7) token ids of the same objects, (n,) ids of
# the right ones; gives (n,) bool.
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# Mark which of the seven is the right one; take its log-probability; take the highest of the other six; compare.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# right = object_ids == answer_ids[:, None]
# own = objects[right]
# rival = ...           # the highest of the others: masked_fill(right, -torch.inf), then amax
# return own > rival
# ```
#
# </details>

# %% tags=["solution"]
def chosen(objects, object_ids, answer_ids):
    # BEGIN SOLUTION
    right = object_ids == answer_ids[:, None]
    return objects[right] > objects.masked_fill(right, -torch.inf).amax(1)
    # END SOLUTION


# %% tags=["check"]
check.chosen(chosen)
check.chosen(chosen, ties=True)

# %% tags=["hidden"]
check.chosen(chosen, ties=True)

# %% [markdown] tags=["question"]
# **Judge.** The choice is never lower than top-1. Someone reports that a training raised top-1 from 0.40 to 0.60 and the
# choice from 0.60 to 0.60. What did the training improve, and what would you ask to see next?

# %% [markdown] tags=["answer"]
# It improved the form: the model knew the right object just as often before, and now says an object. Next: what it said
# before when it was wrong (other words than objects?), the probability of all objects together, and the same with a control
# training that teaches the form alone.

# %% [markdown] exercise="1.4"
# ## 1.4 What a guess would look like
#
# *Write · medium · 15 minutes*
#
# When the model names another object of the context, how far is its box from the right one? To see whether short distances
# are frequent one needs the guess: all other places equally likely. Write `guess_distances(places, boxes)`: for wrong answers
# whose right places are `places` (0 to boxes - 1), how many are expected at each distance 1, 2, ..., boxes - 1.
#
# **Why it matters.** Equal bars would be the wrong control: a box in the middle has no neighbour six places away. Most wrong
# conclusions about errors come from a control that was not worked out for the very cases at hand.
#
# <details><summary>Open hint 1: signature</summary>
#
# `def guess_distances(places, boxes) -> torch.Tensor` of shape (boxes - 1,); entry 0 belongs to distance 1; the sum is the
# number of wrong answers.
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# For each right place: the distances to all other places; each of them gets 1 / (boxes - 1). Add up.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# away = (torch.arange(boxes) - places[:, None]).abs()     # (n, boxes), 0 at the right place itself
# found = ...                                              # how often each distance occurs: torch.bincount
# return found[1:] / (boxes - 1)
# ```
#
# </details>

# %% tags=["solution"]
def guess_distances(places, boxes):
    # BEGIN SOLUTION
    away = (torch.arange(boxes) - places[:, None]).abs()
    return torch.bincount(away.flatten(), minlength=boxes)[1:].double() / (boxes - 1)
    # END SOLUTION


# %% tags=["check"]
check.distances(guess_distances)

# %% tags=["hidden"]
check.distances(guess_distances, boxes=5)

# %% [markdown] tags=["question"]
# **Judge.** Suppose the model errs to distance 1 twice as often as the guess. Give two mechanisms that would do this, one in
# which the model stores positions imprecisely and one in which it does not, and an experiment that tells them apart.

# %% [markdown] tags=["answer"]
# Imprecise positions: what is carried is about where the box is, so neighbours are confused. Without positions: the model
# binds an object to the label before or after it (the order of the words), which also hits neighbours. Turn the statement
# round ("Box F contains the apple"): the second mechanism would then err to the other side, the first to both.
