# %% [markdown]
# # 5. What do the heads carry? Exercises
#
# The chapter of the book: *What do the heads carry?* (`chapters/05_dcm_semantics`). The real model is loaded (4 GB of memory, as in chapter 1).

# %%
import torch
from checks import semantics as check
from checks import loaded

subject = loaded.model("qwen2.5-coder-0.5b")
t = check.pairs_of(subject).triples
base, source, rows, size = t.base, t.source, torch.arange(7), subject.head_size
print(base.texts[1], "|", source.texts[1])
print(t.names, [subject.tokenizer.decode([token]) for token in t.candidates[1].tolist()])

# %% [markdown] exercise="5.1"
# ## 5.1 Pairs that tell hypotheses apart
#
# *Write · medium · 20 minutes*
#
# Some heads' outputs are taken from a source prompt into a base prompt. What does the model say then, if they carry the
# *position* asked for, the *object*, or the *label*? Write `predicted(...)`, which gives the four words (with "base", what it says
# unpatched) as a dict, and `all_differ(words)`: whether this pair can tell the hypotheses apart.
#
# **Why it matters.** If two hypotheses predict one word, patching cannot decide between them, however often it is repeated. The paper's official
# pairs for the label do not differ from others in this way.
#
# <details><summary>Open hint 1: signature</summary>
#
# `def predicted(base_objects, base_labels, base_asked, source_objects, source_labels, source_asked)`; places are numbers from 0;
# gives `{"base": ..., "position": ..., "object": ..., "label": ...}`.
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# base: the base's object at `base_asked`. position: the base's object at the *source's* place. object: the source's object at its
# place. label: find the label that the source asks for among the base's labels.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# label = source_labels[source_asked]
# return {
#     "base": base_objects[base_asked],
#     "position": base_objects[source_asked],
#     "object": source_objects[source_asked],
#     "label": ...,      # the base's object in the box with this label: base_labels.index
# }
# ```
#
# </details>

# %% tags=["solution"]
def predicted(base_objects, base_labels, base_asked, source_objects, source_labels, source_asked):
    # BEGIN SOLUTION
    place = base_labels.index(source_labels[source_asked])
    words = {"base": base_objects[base_asked], "position": base_objects[source_asked]}
    return {**words, "object": source_objects[source_asked], "label": base_objects[place]}
    # END SOLUTION


def all_differ(words):
    # BEGIN SOLUTION
    return len(set(words.values())) == len(words)
    # END SOLUTION


# %% tags=["check"]
check.predicted(predicted, all_differ)

# %% tags=["hidden"]
check.predicted(predicted, all_differ, cases=slice(5, 8))

# %% [markdown] tags=["question"]
# **Judge.** With three boxes, and pairs drawn at random, most are useless. Would it be fair to keep all pairs and count an answer for every
# hypothesis that predicts it?

# %% [markdown] tags=["answer"]
# No: each hypothesis would be credited with the others' successes, most of all with the base's own word, which is said whenever
# nothing happens. A hypothesis that is never right alone would look well supported.

# %% [markdown] exercise="5.2"
# ## 5.2 Patch eight heads
#
# *Write · medium · 20 minutes*
#
# Write `patched_tops(heads)`: the most likely token, (7,), after each *base* prompt when these heads say at `last` what they say
# in the *source* prompt. And `answer_table(top, candidates, names)`: how many of the tokens are each candidate, and how many are
# none ("other"), as a dict. `t.candidates` is (7, 4), in the order of `t.names`.
#
# **Why it matters.** Which word comes out says *what* these heads carry. Counting "other", too, is the control: a patch that merely breaks the model
# gives other words.
#
# <details><summary>Open hint 1: signature</summary>
#
# `heads` have `.layer` and `.head`; z is the input of `o_proj`, (7, T, heads * size); `base.last` and `source.last` are (7,).
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# Run the source with pre-hooks that keep z at `source.last`. Run the base with pre-hooks that put the heads' parts in at
# `base.last`. Take the argmax of the last logits. Remove the hooks. For the table compare `top[:, None]` with the candidates.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# def edit(module, given, layer):
#     z = given[0].clone()
#     for one in heads:
#         if one.layer == layer:
#             mine = slice(one.head * size, (one.head + 1) * size)
#             ...        # z[rows, base.last, mine] comes from what was kept of the source
#     return (z,)
# ```
#
# The same hook serves both runs if the first only keeps `given[0][rows, source.last]` and gives nothing back.
#
# </details>

# %% tags=["solution"]
def patched_tops(heads):
    # BEGIN SOLUTION
    kept, modules = {}, [block.self_attn.o_proj for block in subject.model.model.layers]
    def swap(module, given):
        for one in [one for one in heads if modules[one.layer] is module]:
            mine = slice(one.head * size, (one.head + 1) * size)
            if one in kept:
                given[0][rows, base.last, mine] = kept[one]
            else:
                kept[one] = given[0][rows, source.last, mine].clone()
    hooks = [module.register_forward_pre_hook(swap) for module in modules]
    with torch.no_grad():
        tops = [subject.model(input_ids=q.input_ids, logits_to_keep=1).logits[:, -1].argmax(-1) for q in (source, base)]
    [hook.remove() for hook in hooks]
    return tops[1]
    # END SOLUTION


def answer_table(top, candidates, names):
    # BEGIN SOLUTION
    hits = top[:, None] == candidates
    return {**dict(zip(names, hits.sum(0).tolist())), "other": int((~hits.any(1)).sum())}
    # END SOLUTION


# %% tags=["check"]
check.patched(patched_tops, answer_table, subject)

# %% tags=["hidden"]
check.patched(patched_tops, answer_table, subject, some=3)

# %% [markdown] tags=["question"]
# **Judge.** Seven pairs are few. Suppose five of seven answers become the source's object. What would you still need before you write
# "group A carries the object"? Name the control and the interval.

# %% [markdown] tags=["answer"]
# As many other heads of the same layers, patched in the same way (what does any patch at `last` do?); pairs of other contexts, and an
# interval over contexts: 7 pairs of one context are one sample of contexts. And that the source prompt itself is answered rightly.

# %% [markdown] exercise="5.3"
# ## 5.3 One step of a mask
#
# *Write · hard · 25 minutes*
#
# A mask has a weight for each head, 1 = untouched, 0 = patched. Write `mask_step(w, loss_of, penalty, rate)`: one step of gradient
# descent on `loss_of(w) + penalty * sum(1 - w)`, then back between 0 and 1. The gradient must reach the mask alone; `w` itself stays
# as it is.
#
# **Why it matters.** This is all that "learning which heads matter" is. With the sign of the penalty wrong it still learns and selects, namely all heads;
# with gradients in the weights it silently trains the model.
#
# <details><summary>Open hint 1: signature</summary>
#
# `def mask_step(w, loss_of, penalty, rate)` gives a new tensor of the same shape without gradient.
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# A copy of w that wants a gradient; the loss with the penalty; `torch.autograd.grad` of it with respect to that copy; a step; clamp.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# w = w.detach().clone().requires_grad_(True)
# loss = ...             # what is asked, and the penalty for patched heads
# (gradient,) = torch.autograd.grad(loss, w)
# return (w - rate * gradient).detach().clamp(0, 1)
# ```
#
# </details>

# %% tags=["solution"]
def mask_step(w, loss_of, penalty, rate):
    # BEGIN SOLUTION
    w = w.detach().clone().requires_grad_(True)
    loss = loss_of(w) + penalty * (1 - w).sum()
    (gradient,) = torch.autograd.grad(loss, w)
    return (w - rate * gradient).detach().clamp(0, 1)
    # END SOLUTION


# %% tags=["check"]
check.mask_step(mask_step)

# %% tags=["hidden"]
check.mask_step(mask_step, rate=0.3)

# %% [markdown] tags=["question"]
# **Judge.** A mask learned with a weak penalty selects 60 heads and reaches 0.9; with a strong one 6 heads and 0.7. Which of them "carries the
# position"? On which prompts must you decide it?

# %% [markdown] tags=["answer"]
# Neither number alone: more heads always reach at least as much on the training pairs. One needs random heads of each size beside
# them, and the choice of penalty made on validation pairs, with the result reported on test pairs that had no part in it.

# %% [markdown] exercise="5.4"
# ## 5.4 Floor and ceiling
#
# *Write · easy · 10 minutes*
#
# The official code looks up the target of `label` with another token than the one that the model can say (the word without the
# space before it; artefact B4). Write `floor_and_ceiling(plain, perfect, targets)`: how often the target is said without any patch,
# and how often it would be said by heads that carry *exactly* what is claimed. And `void(floor, ceiling)`: whether a measure with
# these can say anything.
#
# **Why it matters.** "0.00 for the label" reads like a strong negative result. It is none if 0.00 is all that can come out.
#
# <details><summary>Open hint 1: signature</summary>
#
# `plain` (n,) tokens said without a patch, `perfect` (n,) tokens that the claim predicts, `targets` (n,) tokens that are counted.
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# Two shares of equal tokens. A measure is void when its ceiling is not above its floor.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# floor = float((plain == targets).double().mean())
# ceiling = ...          # the same for the perfect carrier
# return floor, ceiling
# ```
#
# </details>

# %% tags=["solution"]
def floor_and_ceiling(plain, perfect, targets):
    # BEGIN SOLUTION
    return float((plain == targets).double().mean()), float((perfect == targets).double().mean())
    # END SOLUTION


def void(floor, ceiling):
    # BEGIN SOLUTION
    return ceiling <= floor
    # END SOLUTION


# %% tags=["check"]
check.floor_and_ceiling(floor_and_ceiling, void)

# %% tags=["hidden"]
check.floor_and_ceiling(floor_and_ceiling, void, seed=3)

# %% [markdown] tags=["question"]
# **Judge.** Another official measure has a floor of 0.14 (the base asks for the first box in every pair, B1). Its result is 0.16. Void, weak or
# negative? Say what you would report.

# %% [markdown] tags=["answer"]
# Not void: its ceiling is far above. But 0.16 is to be read against 0.14 and not against 0: report the difference from the floor with
# its interval, which contains 0 here: nothing was found, by a measure that could have found something.
