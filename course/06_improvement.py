# %% [markdown]
# # 6. What did fine-tuning improve? Exercises
#
# The chapter of the book: *What did fine-tuning improve?* (`chapters/06_cmap`). The base model is loaded (4 GB of memory, as in chapter 1); of the fine-tuned one
# what its heads say on 14 prompts is stored, so that nobody needs two models in memory.

# %%
import torch
from checks import improvement as check
from checks import loaded, stored

subject = loaded.model("qwen2.5-coder-0.5b")
p, rows, size = check.prompts_of(subject), torch.arange(14), subject.head_size
heads, z = check.heads_of(subject), check.tuned_z(subject)
print(len(p), "prompts;", len(heads), "heads of group A; z", tuple(z.shape))

# %% [markdown] exercise="6.1"
# ## 6.1 Outputs of another model
#
# *Write · medium · 15 minutes*
#
# Write `cross_patch(heads, z)`: run the *base* model with these heads saying at `last` what is given in `z` (heads, 14, size), and give
# log p of the right answers, (14,). The check also puts the model's own outputs in: between twins nothing may change.
#
# **Why it matters.** If the base model gets better with a few of the tuned model's outputs, these carry the improvement. The twin check is what makes a
# positive result believable: the machinery alone does nothing.
#
# <details><summary>Open hint 1: signature</summary>
#
# `def cross_patch(heads, z)`; `z[i]` (14, size) belongs to `heads[i]`; the right answers are `p.answer_ids`.
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# A pre-hook on `o_proj` of every layer that has heads in the list; in it a copy of the input, with each head's part at `p.last`
# replaced. Run; remove; log_softmax; gather.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# def into(layer):
#     def hook(module, given):
#         new = given[0].clone()
#         for one, said in zip(heads, z):
#             if one.layer == layer:
#                 ...    # its part of new at rows, p.last becomes what it said
#         return (new,)
#     return hook
# hooks = [block.self_attn.o_proj.register_forward_pre_hook(into(layer))
#          for layer, block in enumerate(subject.model.model.layers)]
# ```
#
# </details>

# %% tags=["solution"]
def cross_patch(heads, z):
    # BEGIN SOLUTION
    hooks = []
    for one, said in zip(heads, z):
        def hook(module, given, mine=slice(one.head * size, (one.head + 1) * size), said=said):
            given[0][rows, p.last, mine] = said
        hooks.append(subject.model.model.layers[one.layer].self_attn.o_proj.register_forward_pre_hook(hook))
    with torch.no_grad():
        logits = subject.model(input_ids=p.input_ids, use_cache=False, logits_to_keep=1).logits[:, -1]
    [hook.remove() for hook in hooks]
    return logits.log_softmax(-1)[rows, p.answer_ids]
    # END SOLUTION


# %% tags=["check"]
check.cross(cross_patch, subject, twins=True)
check.cross(cross_patch, subject)

# %% tags=["hidden"]
check.cross(cross_patch, subject)

# %% [markdown] tags=["question"]
# **Judge.** The outputs of A bring nearly the whole gain. Does that show that A's own weights improved? Name the experiment that separates the
# two readings.

# %% [markdown] tags=["answer"]
# No: A's outputs are better if what arrives at A is better. Patch A's queries as the tuned run has them, once computed by the base's
# weights from the tuned inputs, once by the tuned weights from the base's inputs.

# %% [markdown] exercise="6.2"
# ## 6.2 A share that refuses
#
# *Write · medium · 15 minutes*
#
# Write `share(patched, base, tuned, contexts)`: the share of the gap between two models that patching recovers. Where there is no gap,
# that is, the 95% interval of `tuned - base` over contexts contains 0, raise a `ValueError` that says so.
#
# **Why it matters.** A share divides by the gap. Where the gap is noise the share is noise divided by noise, and tends to look spectacular.
#
# <details><summary>Open hint 1: signature</summary>
#
# `def share(patched, base, tuned, contexts) -> float`; all (n,), bool but the last.
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# The interval of the gap as in exercise 2.1. If 0 lies in it: raise. Else the mean of patched - base by the mean of tuned - base.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# gap = tuned.double() - base.double()
# means = torch.stack([gap[contexts == c].mean() for c in contexts.unique()])
# low, high = means[torch.randint(len(means), (2000, len(means)))].mean(1).quantile(
#     torch.tensor([0.025, 0.975], dtype=torch.double))
# if ...:                # 0 lies in the interval
#     raise ValueError(f"the gap is {gap.mean():.2f} [{low:.2f}, {high:.2f}]: no share can be given")
# return float((patched.double() - base.double()).mean() / gap.mean())
# ```
#
# </details>

# %% tags=["solution"]
def share(patched, base, tuned, contexts):
    # BEGIN SOLUTION
    gap = tuned.double() - base.double()
    means = torch.stack([gap[contexts == c].mean() for c in contexts.unique()])
    drawn = means[torch.randint(len(means), (2000, len(means)))].mean(1)
    low, high = drawn.quantile(torch.tensor([0.025, 0.975], dtype=torch.double))
    if low <= 0 <= high:
        raise ValueError(f"the gap is {gap.mean():.2f} [{low:.2f}, {high:.2f}]: no share can be given")
    return float((patched.double() - base.double()).mean() / gap.mean())
    # END SOLUTION


# %% tags=["check"]
check.share(share)

# %% tags=["hidden"]
check.share(share, kept=True)

# %% [markdown] tags=["question"]
# **Judge.** A colleague's method "recovers 140% of the gap". Give an innocent explanation, and one that should worry them.

# %% [markdown] tags=["answer"]
# Innocent: the patched outputs help in a place where the tuned model is held back by something else, or the interval of the share
# includes 1. Worrying: patching changes the form of answers as well, or the gap is so small that its noise makes the ratio large.

# %% [markdown] exercise="6.3"
# ## 6.3 A group in parts
#
# *Write · medium · 20 minutes*
#
# Four times larger than found, group A has about thirty heads in many layers, and some of them are in group B, too. Write
# `parts_of(a, b)`: the parts of A by layer (`"layer 21": [...]`) and by B (`"A and B"`, `"A without B"`), as a dict. Each cut has every head of
# A exactly once. The next cell shows what each part brings, in log p of the right answer on 14 prompts.
#
# **Why it matters.** "A brings the gain" and "B brings the gain" are one finding and not two if the same heads do it.
#
# <details><summary>Open hint 1: signature</summary>
#
# `def parts_of(a, b)`; lists of `Head`s with `.layer`; gives a dict from names to lists.
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# One list for each layer that occurs in A; one list of those in B, and one of those that are not.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# layers = sorted({head.layer for head in a})
# found = {f"layer {layer}": ... for layer in layers}
# found["A and B"] = [head for head in a if head in b]
# found["A without B"] = [head for head in a if head not in b]
# return found
# ```
#
# </details>

# %% tags=["solution"]
def parts_of(a, b):
    # BEGIN SOLUTION
    found = {f"layer {layer}": [h for h in a if h.layer == layer] for layer in sorted({h.layer for h in a})}
    return {**found, "A and B": [h for h in a if h in b], "A without B": [h for h in a if h not in b]}
    # END SOLUTION


# %% tags=["check"]
check.parts(parts_of)

# %% tags=["hidden"]
check.parts(parts_of, other=True)

# %% [markdown] tags=["question"]
# **Judge.** Look at the next cell's gains. The parts' gains need not sum to that of the whole. Name one reason for each direction, and say what
# "this layer brings 40%" may mean then.

# %% [markdown] tags=["answer"]
# More than the whole: two parts bring the same thing, each is enough (redundant). Less: a part only helps when the other is there.
# So a share of a part is its effect *alone*, in a base model without the others; it is no slice of a cake.

# %%
d = stored.load("parts")
gains = (d.logprob - d.base_logprob).double().mean(1)
print("log p of the right answer, gap:", round((d.tuned_logprob - d.base_logprob).double().mean().item(), 3))
for name, gain in zip(d.about["parts"], gains.tolist()):
    if not name.startswith("random"):
        print(f"{name:14} {len(d.about['parts'][name]):3} heads {gain:+.3f}")

# %% [markdown]
# ### A random draw
#
# As a control for B as many other heads of the same layers were drawn at random. The tuned model's outputs of this draw make the base model *worse*: what it gains in
# log p of the right answer on 14 prompts, with each of its heads alone, and without each.

# %%
print(check.draw())

# %% [markdown] exercise="6.4"
# ## 6.4 The harmful head in a random draw
#
# *Write · medium · 20 minutes*
#
# Write `blame(gain, heads)` for such tables: the head without which the draw does best, and by how much better, as `(head, gain)`.
#
# **Why it matters.** Random controls are not zero. Whether a draw hurts by one head or by all of them decides if "random heads" is a fair baseline.
#
# <details><summary>Open hint 1: signature</summary>
#
# `gain["random"]`, `gain["random, only L3H1"]`, `gain["random without L3H1"]` are numbers; `heads` are names.
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# For every head: the score without it, minus that of all. The largest of these.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# helps = {head: ... for head in heads}     # gain without it minus gain of the whole draw
# worst = max(helps, key=helps.get)
# return worst, helps[worst]
# ```
#
# </details>

# %% tags=["solution"]
def blame(gain, heads):
    # BEGIN SOLUTION
    helps = {head: gain[f"random without {head}"] - gain["random"] for head in heads}
    worst = max(helps, key=helps.get)
    return worst, helps[worst]
    # END SOLUTION


# %% tags=["check"]
check.blame(blame)

# %% tags=["hidden"]
check.blame(blame, real=True)

# %% [markdown] tags=["question"]
# **Judge.** You tried eight heads and name the worst. On 14 prompts, how sure are you that it is the worst, and how would you find out without
# fooling yourself? (This is the debate of session one.)

# %% [markdown] tags=["answer"]
# The worst of eight is partly the unluckiest of eight. Name it on these prompts and test it on others: if removing it helps there, too,
# with an interval above zero, it is harmful. Also look whether it is harmful in other draws.

# %% [markdown]
# ### What that head says
#
# Stored is what the eight drawn heads say at `last` in the fine-tuned model, on 7 contexts with all 7 places asked for: `said[name]` is
# (7 contexts, 7 places, 64). To compare with, the first four heads of group A (that are not in B) and of group B.

# %%
said = check.said()

# %% [markdown] exercise="6.5"
# ## 6.5 What does the harmful head carry?
#
# *Write and read · medium · 20 minutes*
#
# Split what a head says in three, after `z.mean((0, 1))` is taken out: the *context*'s part is the mean over places, the *place*'s part the mean over
# contexts, the *rest* what both leave. Write `carries(z)`: for each part, its share of the sum of squares divided by its share in pure noise, as a dict with
# `"context"`, `"place"`, `"rest"`. In noise of c contexts and p places the shares are c - 1, p - 1 and (c - 1)(p - 1), each divided by cp - 1.
#
# Then run the cell, read the table that it prints, and say in `harmful` which part the harmful head, the one that `blame` would name in the table above, carries most
# above chance.
#
# **Why it matters.** "It does harm" names an effect. What the head hands on says which story about it can be true: a head that carries no object cannot be
# one that says the wrong object.
#
# <details><summary>Open hint 1: signature</summary>
#
# `def carries(z)`; `z` is (contexts, places, size); gives `{"context": ..., "place": ..., "rest": ...}`, each near 1 for noise.
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# Subtract `z.mean((0, 1))`. The context's part is `z.mean(1, keepdim=True)`, one for all places; so its sum of squares counts once for every
# place. Divide by the sum of squares of all of z, then by the share in noise.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# c, p, _ = z.shape
# z = z - z.mean((0, 1))
# context, place = z.mean(1, keepdim=True).expand_as(z), z.mean(0, keepdim=True).expand_as(z)
# parts = {"context": (context, c - 1), "place": (place, p - 1), "rest": ...}    # what both leave, and its number
# whole = z.square().sum() / (c * p - 1)
# return {name: float(part.square().sum() / whole / free) for name, (part, free) in parts.items()}
# ```
#
# </details>

# %% tags=["solution"]
def carries(z):
    # BEGIN SOLUTION
    c, p, _ = z.shape
    z = z - z.mean((0, 1))
    context, place = z.mean(1, keepdim=True).expand_as(z), z.mean(0, keepdim=True).expand_as(z)
    parts = {"context": (context, c - 1), "place": (place, p - 1), "rest": (z - context - place, (c - 1) * (p - 1))}
    whole = z.square().sum() / (c * p - 1)
    return {name: float(part.square().sum() / whole / free) for name, (part, free) in parts.items()}
    # END SOLUTION


print(check.reading(carries))
harmful = "place"  # SOLUTION

# %% tags=["check"]
check.carries(carries)
check.carried(harmful)

# %% tags=["hidden"]
check.carries(carries, real=True)

# %% [markdown] tags=["question"]
# **Judge.** Compare the harmful head with groups A and B and with the seven other heads of the draw, which together do little. What does the table say about the harm, and
# what does it not? Which experiment would you do next? And what does it say of "random heads of the same layers" as a control?

# %% [markdown] tags=["answer"]
# It carries where to look, as group B does, and hardly which objects there are, as group A does: so it does not say a wrong word, it can only send others to look in
# the wrong place. But most heads of the draw carry the place and do no harm: that it is carried does not say what is done with it. Next: put in what
# the head says when another place is asked for; if the answer moves to that place's object, the place is what is used. And the control is no blank: heads of these
# layers carry what B carries, so it asks whether B does more than its neighbours and not whether it does more than nothing.
