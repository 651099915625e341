# %% [markdown]
# # 3. Finding the circuit: exercises
#
# The chapter of the book: *Finding the circuit* (`chapters/03_circuit_discovery`). The first exercise needs no model. From the second
# on the real one is loaded (0.5 GB are fetched the first time; 4 GB of memory).
#
# Words that are easily confused: the base *prompt* is the one that is run again, the source *prompt* the one that something is
# taken from; a base *model* is one that was not fine-tuned, and plays no part here.

# %%
import nnsight
import torch
from checks import finding as check
from checks import loaded, stored
from entity_circuits import boxes, toy
from entity_circuits.heads import Head


# %% [markdown]
# Given, and worth reading: the outputs of all heads, kept by one hook a layer. `z` is the input of `o_proj`, the outputs of a
# layer's heads side by side, `size` numbers each.

# %%
def z_of_all(model, ids):
    kept = []
    hooks = [block.self_attn.o_proj.register_forward_pre_hook(lambda module, given: kept.append(given[0].clone()))
             for block in model.model.layers]
    model(input_ids=ids)
    for hook in hooks:
        hook.remove()
    return kept  # one (n, T, heads * size) a layer


# %% [markdown] exercise="3.1"
# ## 3.1 Freeze all but one
#
# *Write · medium · 20 minutes · on the toy*
#
# Pass 1 of path patching with plain hooks. Write `frozen_except`: run `ids` (the base prompts) with every head of every layer
# held at its output in the base run, at every token, but for one head, which says at the *last* token what it said in the
# source run. Give the logits at the last token, (n, vocabulary). Take your hooks out again.
#
# **Why it matters.** With everything else held, the change can reach the answer only down the residual stream and through
# MLPs. Leave the holding out and you measure something else: all paths at once.
#
# <details><summary>Open hint 1: signature</summary>
#
# `def frozen_except(model, ids, base_z, source_z, layer, head, size)`; `base_z` and `source_z` are what `z_of_all` gives;
# the head's numbers are `z[:, :, head * size : (head + 1) * size]`.
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# For each layer: a copy of the base run's z; in the sender's layer overwrite the head's part at the last token from
# `source_z`; register a pre-hook on `o_proj` that returns this z. Then run, then remove the hooks, then return.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# hooks = []
# for number, block in enumerate(model.model.layers):
#     z = base_z[number].clone()
#     if number == layer:
#         ...            # the sender's part of z at the last token comes from source_z
#     hooks.append(block.self_attn.o_proj.register_forward_pre_hook(lambda module, given, z=z: (z,)))
# logits = model(input_ids=ids).logits[:, -1]
# for hook in hooks:
#     hook.remove()
# return logits
# ```
#
# `z=z` in the lambda is no ornament: without it every hook would use the z of the last layer.
#
# </details>

# %% tags=["solution"]
def frozen_except(model, ids, base_z, source_z, layer, head, size):
    # BEGIN SOLUTION
    hooks, mine = [], slice(head * size, (head + 1) * size)
    for number, block in enumerate(model.model.layers):
        z = base_z[number].clone()
        if number == layer:
            z[:, -1, mine] = source_z[number][:, -1, mine]
        hooks.append(block.self_attn.o_proj.register_forward_pre_hook(lambda module, given, z=z: (z,)))
    logits = model(input_ids=ids).logits[:, -1]
    for hook in hooks:
        hook.remove()
    return logits
    # END SOLUTION


# %% tags=["check"]
check.frozen(frozen_except, z_of_all)
check.frozen(frozen_except, z_of_all, noisy=True)

# %% tags=["hidden"]
check.frozen(frozen_except, z_of_all, noisy=True)

# %% [markdown] tags=["question"]
# **Judge.** In the toy the first two heads of the relay get a score of exactly 0 in this round, though without them nothing
# arrives. Is that a fault of the method? What would you have to say in a sentence that begins "Head L0H0 does not matter"?

# %% [markdown] tags=["answer"]
# No: the round asks for direct effects from the last token, and theirs goes through another head, which was held. "L0H0 has
# no direct effect from the last token on the answer" is what was measured; that it does not matter is refuted by round 3.

# %% [markdown]
# ### The real model
#
# Seven base prompts (one context, all its boxes) and their sources, and the model as nnsight sees it.

# %%
subject = loaded.model("qwen2.5-coder-0.5b")
base, source = check.base_of(subject)
lens, rows, size = nnsight.NNsight(subject.model), torch.arange(len(base)), subject.head_size
with torch.no_grad():
    base_z, source_z = (z_of_all(subject.model, p.input_ids) for p in (base, source))
print(len(base), "prompts;", subject.layers, "layers of", subject.heads, "heads;", base.texts[0])

# %% [markdown] exercise="3.2"
# ## 3.2 One head of the real model
#
# *Write · hard · 25 minutes*
#
# The same with nnsight: `direct_effect(layer, head)` gives the log-probability of the right answers, shape (7,), in the run in
# which all heads are held and one speaks of the source prompt at `last`. It is compared with the library's sweep for L21H11, to
# 1e-4. (Hooks are allowed, too.)
#
# **Why it matters.** This one number, for every head, is the whole first map of the paper. Once you have written it, there is
# nothing in the map that you have to believe.
#
# <details><summary>Open hint 1: signature</summary>
#
# `def direct_effect(layer, head)`; inside `with torch.no_grad(), lens.trace(input_ids=base.input_ids, use_cache=False):` the
# input of a module is read and set as `block.self_attn.o_proj.input`, and what should be left afterwards gets `.save()`.
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# In the trace, layer by layer in the order in which the model computes (nnsight refuses to go back): a copy of `base_z`, the
# sender's part replaced at `base.last`, given to `o_proj.input`. At the end the output of `lens.lm_head`. After the trace
# log_softmax, at the right answers `base.answer_ids`.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# mine = slice(head * size, (head + 1) * size)
# with torch.no_grad(), lens.trace(input_ids=base.input_ids, use_cache=False, logits_to_keep=1):
#     for number, block in enumerate(lens.model.layers):
#         z = base_z[number].clone()
#         if number == layer:
#             z[rows, base.last, mine] = source_z[number][rows, source.last, mine]
#         ...            # this z becomes the input of o_proj
#     logits = lens.lm_head.output[:, -1].save()
# return logits.log_softmax(-1)[rows, base.answer_ids]
# ```
#
# </details>

# %% tags=["solution"]
def direct_effect(layer, head):
    # BEGIN SOLUTION
    mine = slice(head * size, (head + 1) * size)
    with torch.no_grad(), lens.trace(input_ids=base.input_ids, use_cache=False, logits_to_keep=1):
        for number, block in enumerate(lens.model.layers):
            z = base_z[number].clone()
            if number == layer:
                z[rows, base.last, mine] = source_z[number][rows, source.last, mine]
            block.self_attn.o_proj.input = z
        logits = lens.lm_head.output[:, -1].save()
    return logits.log_softmax(-1)[rows, base.answer_ids]
    # END SOLUTION


# %% tags=["check"]
check.direct(direct_effect, subject, base_z)

# %% tags=["hidden"]
check.direct(direct_effect, subject, base_z, which=1)

# %% [markdown] tags=["question"]
# **Judge.** The score of L21H11 is strongly negative: with the news of the source prompt in it the right answer gets less
# likely. Would a *positive* score mean that a head is harmful to the task? Give one other reading.

# %% [markdown] tags=["answer"]
# Not by itself. The head may suppress the right word in the base run (then it is a brake, and what is harmful depends on what
# it usually stops), or the source's news may happen to favour the base's answer. One would need ablation, other sources, and the
# interval: a small positive number over seven prompts is mostly noise.

# %% [markdown]
# ### Through the queries of others
#
# Given: pass 1 for a sender, which now reads the queries of all heads at `last` in the layers above instead of the answer. Note
# which line is all the difference from your `direct_effect`.

# %%
def queries_after(layer, head):
    mine, found = slice(head * size, (head + 1) * size), {}
    with torch.no_grad(), lens.trace(input_ids=base.input_ids, use_cache=False, logits_to_keep=1):
        for number, block in enumerate(lens.model.layers):
            if number > layer:
                found[number] = block.self_attn.q_proj.output[rows, base.last].unflatten(-1, (-1, size))
            held = base_z[number].clone()
            if number == layer:
                held[rows, base.last, mine] = source_z[number][rows, source.last, mine]
            block.self_attn.o_proj.input = held
        found = nnsight.save(found)
    return found  # {layer: (7, heads, size)}


# %% [markdown] exercise="3.3"
# ## 3.3 Pass 2
#
# *Write · hard · 30 minutes*
#
# L14H5 was found to act through the queries of group A. Write `second_pass(queries, receivers)`: run the base prompts with
# *nothing* held, but with the queries of the receivers at `last` as they came out of pass 1. Give log p of the right answers.
#
# **Why it matters.** A score of round 2 says: what this head writes changes *what group A looks for*. Reading the wrong
# projection (k, v), or holding the rest here, too, answers another question, and its map looks just as convincing.
#
# <details><summary>Open hint 1: signature</summary>
#
# `def second_pass(queries, receivers)`; `queries[layer]` is (7, heads, size); `receivers` are `Head`s with `.layer`, `.head`.
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# In a trace, for each layer that has receivers: read `q_proj.output`, cut it by head with `unflatten(-1, (-1, size))`, copy it,
# put the receivers' queries in at `base.last`, flatten, assign. Then the logits as before.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# with torch.no_grad(), lens.trace(input_ids=base.input_ids, use_cache=False, logits_to_keep=1):
#     for number, block in enumerate(lens.model.layers):
#         for head in [one.head for one in receivers if one.layer == number]:
#             q = block.self_attn.q_proj.output.clone()
#             ...        # its part at base.last is that of queries[number]
#             block.self_attn.q_proj.output = q
#     logits = lens.lm_head.output[:, -1].save()
# return logits.log_softmax(-1)[rows, base.answer_ids]
# ```
#
# </details>

# %% tags=["solution"]
def second_pass(queries, receivers):
    # BEGIN SOLUTION
    with torch.no_grad(), lens.trace(input_ids=base.input_ids, use_cache=False, logits_to_keep=1):
        for number, block in enumerate(lens.model.layers):
            for head in [one.head for one in receivers if one.layer == number]:
                q = block.self_attn.q_proj.output.clone()
                q[rows, base.last, head * size : (head + 1) * size] = queries[number][:, head]
                block.self_attn.q_proj.output = q
        logits = lens.lm_head.output[:, -1].save()
    return logits.log_softmax(-1)[rows, base.answer_ids]
    # END SOLUTION


# %% tags=["check"]
check.second(second_pass, queries_after, subject)

# %% tags=["hidden"]
check.second(second_pass, queries_after, subject, which=1)

# %% [markdown] tags=["question"]
# **Judge.** Seven heads share one set of keys and values in this model, none shares queries. Why can you ask for the queries
# of one head alone, but not for its keys or values? What would a map "through the values of L21H11" really show?

# %% [markdown] tags=["answer"]
# Keys and values are computed once for seven heads; replacing them replaces them for all seven unless one computes attention
# anew for the one head (the library does). Done naively the map would show the effect through all heads of the group.

# %% [markdown]
# ### Two averages
#
# The first round with 70 examples is stored: `before` (70,) is p of the right answer, `after` (336, 70) the same with each
# head patched.

# %%
d = stored.load("first_round")
before, after = d.before.double(), d.after.double()

# %% [markdown] exercise="3.4"
# ## 3.4 The mean of ratios and the ratio of means
#
# *Write and explain · easy · 15 minutes*
#
# Write both averages: `mean_of_ratios(before, after)`, the paper's score, the mean over examples of (p' - p) / p; and
# `ratio_of_means(before, after)`, (mean p' - mean p) / mean p. Then `culprit(before, one)`: for one head's `after` (70,), the
# number of the example whose ratio lies furthest from the mean of all ratios.
#
# **Why it matters.** For some heads the two have different signs. A ranking that a single example can turn round is no ranking.
#
# <details><summary>Open hint 1: signature</summary>
#
# `before` (n,), `after` (heads, n); both averages give (heads,). `culprit` gives an int.
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# For the first: divide, then average along the examples. For the second: average, then divide.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# def culprit(before, one):
#     ratios = (one - before) / before
#     return int(...)    # where |ratios - their mean| is largest: abs(), argmax()
# ```
#
# </details>

# %% tags=["solution"]
def mean_of_ratios(before, after):
    # BEGIN SOLUTION
    return ((after - before) / before).mean(-1)
    # END SOLUTION


def ratio_of_means(before, after):
    # BEGIN SOLUTION
    return (after.mean(-1) - before.mean()) / before.mean()
    # END SOLUTION


def culprit(before, one):
    # BEGIN SOLUTION
    ratios = (one - before) / before
    return int((ratios - ratios.mean()).abs().argmax())
    # END SOLUTION


# %% tags=["check"]
check.averages(mean_of_ratios, ratio_of_means)
check.culprit(culprit)

# %% tags=["hidden"]
check.culprit(culprit, last=True)

# %% [markdown] tags=["question"]
# **Judge.** Look at p before in the culprit's example. Which of the two averages would you rank heads by, and what does it hide
# that the other shows?

# %% [markdown] tags=["answer"]
# p is close to 0 there: the model gave the right answer almost no chance, so any change is an enormous ratio. The ratio of
# means ranks better; it hides what happens in the examples that the model gets wrong, as they have hardly any weight.

# %% [markdown] exercise="3.5"
# ## 3.5 What a head says, from where it looks
#
# *Write · medium · 15 minutes*
#
# Write `z_of(attention, v)`: the outputs of all heads of a layer at one token, from where each of them looks, `attention`
# (n, heads, T), and the values (n, T, sets, size). Keys and values are *shared*: with 14 heads and 2 sets, heads 0 to 6 use the
# first set and 7 to 13 the second.
#
# **Why it matters.** Attention maps invite stories. What a head hands on is attention times values; who takes the wrong set of
# values reads a map of one head and a message of another.
#
# <details><summary>Open hint 1: signature</summary>
#
# `def z_of(attention, v)` gives (n, heads, size).
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# Repeat each set of values for the heads that share it, then sum over tokens the values weighted by the attention.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# each = ...             # (n, T, heads, size): v.repeat_interleave(heads // sets, dim=2)
# return torch.einsum("nht,nthd->nhd", attention, each)
# ```
#
# `repeat_interleave` and not `repeat`: the order is 0 0 0 1 1 1, not 0 1 0 1 0 1.
#
# </details>

# %% tags=["solution"]
def z_of(attention, v):
    # BEGIN SOLUTION
    each = v.repeat_interleave(attention.shape[1] // v.shape[2], dim=2)
    return torch.einsum("nht,nthd->nhd", attention, each)
    # END SOLUTION


# %% tags=["check"]
check.output(z_of)

# %% tags=["hidden"]
check.output(z_of, subject)

# %% [markdown] tags=["question"]
# **Judge.** A map shows that a head looks at the first token with a weight of 0.9. A fellow student concludes that it "reads the
# beginning of the text". What would you compute before you agree?

# %% [markdown] tags=["answer"]
# The size of the values there: many heads park their attention on a first token whose values are close to zero, which is how a
# head says nothing. Attention times the length of the value vector, or ablation, tells.
