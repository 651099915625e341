# %% [markdown]
# # 4. Is it the same circuit? Exercises
#
# The chapter of the book: *Is it the same circuit?* (`chapters/04_circuit_evaluation`). The real model is loaded (4 GB of memory, as in chapter 1); the
# means over 49 other prompts are stored.

# %%
import torch
from checks import evaluation as check
from checks import loaded, stored

subject = loaded.model("qwen2.5-coder-0.5b")
p, means, size = check.prompts_of(subject), check.means_of(subject), subject.head_size
print(len(p), "prompts of", p.input_ids.shape[1], "tokens; means", tuple(means.shape))

# %% [markdown] exercise="4.1"
# ## 4.1 Mean ablation
#
# *Write · medium · 20 minutes*
#
# Write `ablated(keep)`: run the prompts with every head that is *not* kept giving its mean output, at every token that token's
# own mean. `keep` maps layers to lists of heads; a layer that is not in it keeps none. Give the logits at the last token, (7,
# vocabulary). With hooks or with nnsight.
#
# **Why it matters.** A circuit is what is enough. Replacing the rest by zero would break the model in ways that have nothing to do with the task;
# its mean keeps what is the same in every prompt and takes out what differs.
#
# <details><summary>Open hint 1: signature</summary>
#
# `def ablated(keep)`; `means[layer]` is (T, heads, size); the input of `o_proj` is (7, T, heads * size).
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# For each layer the heads that are not kept; a pre-hook on `o_proj` that copies its input, puts the means of these heads in and
# gives it back. A layer of which all heads are kept needs no hook. Run; remove; return.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# def speaking(layer):
#     out = [h for h in range(subject.heads) if h not in keep.get(layer, [])]
#     def hook(module, given):
#         z = given[0].clone().unflatten(-1, (-1, size))
#         ...            # z of the heads `out`, at every token, is their mean
#         return (z.flatten(-2),)
#     return hook
# hooks = [block.self_attn.o_proj.register_forward_pre_hook(speaking(layer))
#          for layer, block in enumerate(subject.model.model.layers)]
# ```
#
# Then the model with `use_cache=False, logits_to_keep=1`, its `logits[:, -1]`, and `hook.remove()` for each.
#
# </details>

# %% tags=["solution"]
def ablated(keep):
    # BEGIN SOLUTION
    hooks = []
    for layer, block in enumerate(subject.model.model.layers):
        out = [head for head in range(subject.heads) if head not in keep.get(layer, [])]
        mean = means[layer][:, out].flatten(-2).expand(len(p), -1, -1)
        mine = [head * size + i for head in out for i in range(size)]
        change = lambda module, given, mine=mine, mean=mean: (given[0].index_copy(2, torch.tensor(mine), mean),)
        hooks += [block.self_attn.o_proj.register_forward_pre_hook(change)] if out else []
    with torch.no_grad():
        logits = subject.model(input_ids=p.input_ids, use_cache=False, logits_to_keep=1).logits[:, -1]
    [hook.remove() for hook in hooks]
    return logits
    # END SOLUTION


# %% tags=["check"]
check.ablated(ablated, subject)

# %% tags=["hidden"]
check.ablated(ablated, subject, every=3)

# %% [markdown] tags=["question"]
# **Judge.** The means are taken over *other* contexts. What would be wrong with taking them over the prompts that are evaluated, and in
# which direction would it bend the result?

# %% [markdown] tags=["answer"]
# The mean would contain the very answers: with few prompts a part of each prompt's own signal stays in, so that heads that are
# "removed" still help. Circuits would look more complete than they are.

# %% [markdown] exercise="4.2"
# ## 4.2 Add one at a time
#
# *Write · medium · 20 minutes*
#
# Write `greedy(score, parts)`: begin with nothing; add again and again the part with which the score of all parts so far is
# highest; give the list of pairs `(part, score with it)`. Below it runs on the stored accuracies of all sets of the four groups.
#
# **Why it matters.** Sorting parts by what each does alone puts two that do the same work side by side. What a circuit needs is what still helps
# when the rest is there.
#
# <details><summary>Open hint 1: signature</summary>
#
# `def greedy(score, parts)`; `score` takes a list of parts and gives a number.
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# While parts are left: of those left, the one with the highest score *together with what was added*; note it; go on.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# added, found, left = [], [], list(parts)
# while left:
#     best = ...         # max(left, key=...): what is scored is added plus this one
#     added.append(best)
#     left.remove(best)
#     found.append((best, score(added)))
# return found
# ```
#
# </details>

# %% tags=["solution"]
def greedy(score, parts):
    # BEGIN SOLUTION
    added, found, left = [], [], list(parts)
    while left:
        best = max(left, key=lambda part: score([*added, part]))
        added.append(best)
        left.remove(best)
        found.append((best, score(added)))
    return found
    # END SOLUTION


# %% tags=["check"]
check.greedy(greedy)

# %% tags=["hidden"]
check.greedy(greedy, other=True)

# %% [markdown] tags=["question"]
# **Judge.** Now run the next cell. Greedy growth can miss two parts that help only together. How would you notice, and what would you need
# to compute to be sure? How many runs is that for four groups, and for 336 heads?

# %% [markdown] tags=["answer"]
# Take parts away instead (backward): if removing a part that was never chosen early hurts the whole, there is such a pair. To be
# sure takes all sets: 16 runs for four groups, as stored here, and 2 to the 336 for heads, which is why completeness is sampled.

# %%
d = stored.load("subsets")
names = d.about["groups"]
accuracy = d.correct.double().mean(1)


def score(parts):
    return accuracy[sum(1 << names.index(part) for part in parts)].item()


print(greedy(score, names))

# %% [markdown] exercise="4.3"
# ## 4.3 A mask that cuts one look
#
# *Write · medium · 15 minutes*
#
# Write `knockout_mask(width, position, key)`: what is *added* to attention scores so that, in prompt i, token `position[i]` does
# not see token `key[i]`, and everything else is causal as always: 0 where one may look, a very negative number elsewhere. Shape
# (n, 1, width, width); rows look, columns are looked at.
#
# **Why it matters.** Cutting a look is the plainest test of "the head reads it there". A transposed mask runs without an error and cuts another
# look, which mostly does nothing, and "no effect" is then reported.
#
# <details><summary>Open hint 1: signature</summary>
#
# `def knockout_mask(width, position, key)`; `position` and `key` are (n,).
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# A causal mask first (`torch.full(...).triu(1)`), one copy a prompt; then one more cell in each.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# n, low = len(position), torch.finfo(torch.float32).min
# mask = torch.full((width, width), low).triu(1).expand(n, 1, -1, -1).clone()
# ...                    # one cell a prompt: torch.arange(n), 0, row, column
# return mask
# ```
#
# </details>

# %% tags=["solution"]
def knockout_mask(width, position, key):
    # BEGIN SOLUTION
    n, low = len(position), torch.finfo(torch.float32).min
    mask = torch.full((width, width), low).triu(1).expand(n, 1, -1, -1).clone()
    mask[torch.arange(n), 0, position, key] = low
    return mask
    # END SOLUTION


# %% tags=["check"]
check.mask(knockout_mask)

# %% tags=["hidden"]
check.mask(knockout_mask, subject)

# %% [markdown] tags=["question"]
# **Judge.** You cut `last` from `object` in all layers and the accuracy falls only a little. Does the model not need to look there?

# %% [markdown] tags=["answer"]
# It may get the object by another way: a later token copied it from there and is seen from `last`. One would cut the other
# tokens that carry it, too, or ask path patching where the information stands at which layer.

# %% [markdown] exercise="4.4"
# ## 4.4 How far does a ranking repeat itself?
#
# *Write · easy · 15 minutes*
#
# Two models share 5 of their 7 best heads. Is that much? Write `ceiling(scores, contexts, k)`: take the k heads with the *most
# negative* mean score in the contexts with even numbers and in those with odd numbers; give the share of k that is in both.
#
# **Why it matters.** No two rankings can agree better than a ranking agrees with itself on fresh prompts. Without this ceiling an overlap of 0.7 may
# be read as "different", when it is as good as it can be.
#
# <details><summary>Open hint 1: signature</summary>
#
# `def ceiling(scores, contexts, k)`; `scores` (heads, n), `contexts` (n,); gives a float from 0 to 1.
#
# </details>
#
# <details><summary>Open hint 2: skeleton</summary>
#
# Two sets of rows; the mean of each half; the k lowest of each as a set; what both share, divided by k.
#
# </details>
#
# <details><summary>Open hint 3: one line missing</summary>
#
# ```python
# even = contexts % 2 == 0
# best = [set(scores[:, half].mean(1).argsort()[:k].tolist()) for half in (even, ~even)]
# return ...             # what is in both, as a share of k
# ```
#
# </details>

# %% tags=["solution"]
def ceiling(scores, contexts, k):
    # BEGIN SOLUTION
    even = contexts % 2 == 0
    best = [set(scores[:, half].mean(1).argsort()[:k].tolist()) for half in (even, ~even)]
    return len(best[0] & best[1]) / k
    # END SOLUTION


# %% tags=["check"]
check.ceiling(ceiling)

# %% tags=["hidden"]
check.ceiling(ceiling, k=12)

# %% [markdown] tags=["question"]
# **Judge.** Each half has half of the prompts. Is the ceiling that you computed too high or too low for a comparison of two rankings that
# used all prompts each?

# %% [markdown] tags=["answer"]
# Too low: halves are noisier than the whole. Two full rankings on fresh prompts would agree better, so the ceiling is
# conservative in the direction of calling circuits "the same". Compare at equal n, or correct for length.
