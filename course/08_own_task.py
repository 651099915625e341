# %% [markdown]
# # 8. Another task: exercises
#
# The chapter of the book: *Your own task* (`chapters/a3_own_task`). The real model is loaded (4 GB of memory, as in chapter 1). Together the three exercises take
# about 40 minutes: *Then, Mary and John went to the shop. John gave a drink to* ... Mary: who has been named only once.

# %%
import torch
from checks import own_task as check
from checks import loaded
from entity_circuits.tasks.rounds import Round

subject = loaded.model("qwen2.5-coder-0.5b")
print([len(check.tokens(subject, name)) for name in check.NAMES], "tokens: one each")

# %% [markdown] exercise="8.1"
# ## 8.1 Texts of your own
#
# *Write · medium · 15 minutes*
#
# Write `texts_of(names)`: at least eight texts in which two people are named and one of them again, as a list of
# `{"text": ..., "answer": ..., "wrong": ...}`. The answer is the name that is said once, the wrong one that which is said twice; both begin with
# a space. Every pair of names occurs both ways round, and the answer is said first about as often as second.
#
# **Why it matters.** A task is only as good as what it rules out. If the answer is always the first name, "name the first" solves it, and the circuit that is
# found is that of another task.
#
# <details><summary>Open hint 1: signature</summary>
#
# `def texts_of(names)`; `names` are eight first names of one token; all texts have the same number of tokens.
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# For each two neighbours in the list, both orders of naming them first, and both who may be the one that is repeated: four texts.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# made = []
# for one, other in zip(names[::2], names[1::2]):
#     for first, second in ((one, other), (other, one)):
#         for again, answer in ((first, second), (second, first)):
#             text = ...         # f"Then, {first} and {second} went to the shop. {again} gave a drink to"
#             made.append({"text": text, "answer": " " + answer, "wrong": " " + again})
# return made
# ```
#
# </details>

# %% tags=["solution"]
def texts_of(names):
    # BEGIN SOLUTION
    made = []
    for one, other in zip(names[::2], names[1::2]):
        for first, second in ((one, other), (other, one)):
            for again, answer in ((first, second), (second, first)):
                text = f"Then, {first} and {second} went to the shop. {again} gave a drink to"
                made.append({"text": text, "answer": " " + answer, "wrong": " " + again})
    return made
    # END SOLUTION


# %% tags=["check"]
check.dataset(texts_of, subject)

# %% tags=["hidden"]
check.dataset(texts_of, subject, names=check.NAMES[::-1])

# %% [markdown] tags=["question"]
# **Judge.** How could a model be right on all of your texts without any notion of who gives what to whom? Name the shortcut and a text that would
# expose it.

# %% [markdown] tags=["answer"]
# "Say the name that occurs once" needs no giving. "Then, Mary and John went to the shop. Mary thanked John. John gave a drink to" has no such name.

# %% [markdown] exercise="8.2"
# ## 8.2 The metric
#
# *Write · easy · 10 minutes*
#
# Write `logit_difference(logits, answers, wrong)`: for each prompt the logit of the right name minus that of the wrong one.
#
# **Why it matters.** A probability of the right name also falls when the model wants to say "the". The difference of two logits asks only which of the two.
#
# <details><summary>Open hint 1: signature</summary>
#
# `logits` (n, vocabulary), `answers` and `wrong` (n,) ids; gives (n,).
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# Pick two columns a row, subtract.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# rows = torch.arange(len(answers))
# return logits[rows, answers] - ...
# ```
#
# </details>

# %% tags=["solution"]
def logit_difference(logits, answers, wrong):
    # BEGIN SOLUTION
    rows = torch.arange(len(answers))
    return logits[rows, answers] - logits[rows, wrong]
    # END SOLUTION


# %% tags=["check"]
check.metric(logit_difference)

# %% tags=["hidden"]
check.metric(logit_difference, seed=4)

# %% [markdown] tags=["question"]
# **Judge.** For which question about the boxes would a logit difference mislead, where the book takes the log-probability?

# %% [markdown] tags=["answer"]
# With seven objects there is no single wrong answer: the difference to one of them ignores the other five, and a head that moves
# probability among all would look idle, or strong, depending on which was chosen.

# %% [markdown] exercise="8.3"
# ## 8.3 Rounds of your own
#
# *Write · hard · 15 minutes*
#
# Write `rounds`, a list of two `Round`s: who writes the answer (senders at `last`), and who sends, from the place where the name is repeated
# (`again`), into the first through their values. And `positions(made)`: for the engine, `{"again": [...]}` with one entry `(name, 2)` a text,
# "the second time this name is said". The check runs the discovery on four of your texts.
#
# **Why it matters.** Rounds are the hypothesis: which way information could take. The engine only answers what it is asked.
#
# <details><summary>Open hint 1: signature</summary>
#
# `Round(name, position)` for the first, `Round(name, position, into=..., through=...)` for the second.
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# The first into nothing; the second `into` the name of the first, `through="v"`.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# rounds = [Round("writers", "last"), Round("readers", "again", into=..., through="v")]
# def positions(made):
#     return {"again": [(one["wrong"].strip(), 2) for one in made]}
# ```
#
# </details>

# %% tags=["solution"]
rounds = [Round("writers", "last"), Round("readers", "again", into="writers", through="v")]  # SOLUTION


def positions(made):
    # BEGIN SOLUTION
    return {"again": [(one["wrong"].strip(), 2) for one in made]}
    # END SOLUTION


# %% tags=["check"]
check.rounds(rounds, positions, texts_of, subject)

# %% tags=["hidden"]
check.rounds(rounds, positions, texts_of, subject, begin=4)

# %% [markdown] tags=["question"]
# **Judge.** You found a head with a strong effect on four texts. List, in order, the three things you would do before you call it a part of a circuit.

# %% [markdown] tags=["answer"]
# Fresh texts with other names and verbs, and an interval over them; random heads of the same layers as a control; ablation: is it needed, and
# are the found heads together enough?
