"""Typical wrong answers to each exercise, with what the check has to say of them (a regular expression)."""

WRONG: dict[str, list[tuple[str, str]]] = {
    "1.1": [
        ("def find_prev(ids): return len(ids) - 3", "label in the query"),
        ("def find_prev(ids): return 5", "the token at 5 is not the label"),
        ("def find_prev(ids): return int((ids == ids[-2]).nonzero()[0])", "third from the end"),
        ("def find_prev(ids): return int((ids == ids[-3]).nonzero()[0]) - 4", "is the object|not at"),
        ("def find_prev(ids): return (ids == ids[-3]).nonzero()", "one index is needed"),
    ],
    "1.2": [
        (
            "def interval(correct, contexts):\n"
            "    drawn = torch.randint(len(correct), (2000, len(correct)))\n"
            "    means = correct.double()[drawn].mean(1)\n"
            "    return tuple(means.quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist())",
            "draw whole contexts",
        ),
        (
            "def interval(correct, contexts):\n"
            "    means = torch.stack([correct[contexts == c].double().mean() for c in contexts.unique()])\n"
            "    return tuple(means.quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist())",
            "times as wide",
        ),
        ("def interval(correct, contexts): return 0.9, 0.1", "below high"),
    ],
    "1.3": [
        ("def chosen(objects, object_ids, answer_ids): return objects.argmax(1) == answer_ids", "compared with the id"),
        (
            "def chosen(objects, object_ids, answer_ids):\n"
            "    right = object_ids == answer_ids[:, None]\n"
            "    return objects[right] > objects.masked_fill(right, -torch.inf).amax()",
            "rivals of its own",
        ),
        ("def chosen(objects, object_ids, answer_ids): return d.top == answer_ids", "that is top-1"),
        (
            "def chosen(objects, object_ids, answer_ids):\n"
            "    return object_ids[torch.arange(len(objects)), objects.argmax(1)] == answer_ids",
            "equally likely nobody",
        ),
        ("def chosen(objects, object_ids, answer_ids): return objects.amax(1)", "True or False"),
    ],
    "1.4": [
        (
            "def guess_distances(places, boxes): return torch.full((boxes - 1,), len(places) / (boxes - 1))",
            "which other places",
        ),
        (
            "def guess_distances(places, boxes):\n"
            "    away = (torch.arange(boxes) - places[:, None]).abs()\n"
            "    return torch.bincount(away.flatten(), minlength=boxes)[1:].double() / boxes",
            "sum to",
        ),
    ],
    "2.1": [
        (
            "def paired(after, before, contexts):\n"
            "    def drawn(x):\n"
            "        means = torch.stack([x[contexts == c].double().mean() for c in contexts.unique()])\n"
            "        return means[torch.randint(len(means), (2000, len(means)))].mean(1)\n"
            "    low, high = (drawn(after) - drawn(before)).quantile(torch.tensor([0.025, 0.975], dtype=torch.double))\n"
            "    return float(after.double().mean() - before.double().mean()), float(low), float(high)",
            "too wide",
        ),
        (
            "def paired(after, before, contexts): return float(before.double().mean() - after.double().mean()), -1.0, 1.0",
            "after minus before",
        ),
    ],
    "2.2": [
        (
            "def over_seeds(g): h = 1.96 * float(g.std()) / len(g) ** 0.5; m = float(g.mean()); return m, m - h, m + h",
            "use t",
        ),
        (
            "def over_seeds(g):\n"
            "    from scipy import stats\n"
            "    h = stats.t.ppf(0.975, len(g) - 1) * float(g.std()); m = float(g.mean())\n"
            "    return m, m - h, m + h",
            "square root of n",
        ),
        (
            "def over_seeds(g):\n"
            "    from scipy import stats\n"
            "    h = stats.t.ppf(0.975, len(g) - 1) * float(g.std(correction=0)) / len(g) ** 0.5; m = float(g.mean())\n"
            "    return m, m - h, m + h",
            "n - 1",
        ),
    ],
    "2.3": [
        ("control = 'arithmetic'; over_control = 0.2", "answers another question"),
        ("control = 'base'; over_control = 0.2", "not trained at all"),
        (
            "over_control = float(check.answers('code').double().mean() - check.answers('base').double().mean())",
            "over the base model",
        ),
    ],
    "2.4": [
        (
            "def split(a, b, c, e):\n"
            "    top = float(b.double().mean() - a.double().mean()); t = float(e.double().mean() - c.double().mean())\n"
            "    return top - t, t",
            "wrong way round",
        ),
        ("def split(a, b, c, e): return float(e.double().mean()), float(b.double().mean())", "sum to the gain"),
    ],
    "2.5": [
        ("def merge(weight, a, b, rank, alpha): return weight + b @ a", "0.25 times"),
        ("def merge(weight, a, b, rank, alpha): return weight + alpha * (b @ a)", "2.00 times"),
        ("def merge(weight, a, b, rank, alpha): return weight.add_(alpha / rank * (b @ a))", "base model's own matrix"),
        ("def merge(weight, a, b, rank, alpha): return weight + alpha / rank * (a @ b)", "stopped with RuntimeError"),
    ],
    "3.1": [
        (
            "def frozen_except(model, ids, base_z, source_z, layer, head, size):\n"
            "    hooks, mine = [], slice(head * size, (head + 1) * size)\n"
            "    for number, block in enumerate(model.model.layers):\n"
            "        z = base_z[number].clone()\n"
            "        if number == layer:\n"
            "            z[:, -1, mine] = source_z[number][:, -1, mine]\n"
            "        hooks.append(block.self_attn.o_proj.register_forward_pre_hook(lambda module, given: (z,)))\n"
            "    logits = model(input_ids=ids).logits[:, -1]\n"
            "    for hook in hooks: hook.remove()\n"
            "    return logits",
            "your score is",
        ),
        (
            "def frozen_except(model, ids, base_z, source_z, layer, head, size):\n"
            "    mine = slice(head * size, (head + 1) * size)\n"
            "    def change(module, given):\n"
            "        z = given[0].clone(); z[:, :, mine] = source_z[layer][:, :, mine]\n"
            "        return (z,)\n"
            "    hook = model.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(change)\n"
            "    logits = model(input_ids=ids).logits[:, -1]\n"
            "    hook.remove()\n"
            "    return logits",
            "your score is",
        ),
        (
            "def frozen_except(model, ids, base_z, source_z, layer, head, size):\n"
            "    for number, block in enumerate(model.model.layers):\n"
            "        block.self_attn.o_proj.register_forward_pre_hook(lambda module, given, z=base_z[number]: (z,))\n"
            "    return model(input_ids=ids).logits[:, -1]",
            "hooks are still",
        ),
        (
            "def frozen_except(model, ids, base_z, source_z, layer, head, size):\n"
            "    hooks, mine = [], slice(head * size, (head + 1) * size)\n"
            "    for number, block in enumerate(model.model.layers):\n"
            "        z = base_z[number]\n"
            "        if number == layer:\n"
            "            z[:, -1, mine] = source_z[number][:, -1, mine]\n"
            "        hooks.append(block.self_attn.o_proj.register_forward_pre_hook(lambda module, given, z=z: (z,)))\n"
            "    logits = model(input_ids=ids).logits[:, -1]\n"
            "    [hook.remove() for hook in hooks]\n"
            "    return logits",
            "wrote into the recordings",
        ),
    ],
    "3.2": [
        ("def direct_effect(layer, head): return torch.zeros(7)", "differs from the library"),
        ("def direct_effect(layer, head): return lens.trace", "should give a tensor"),
        (
            "def direct_effect(layer, head):\n"
            "    def change(module, given):\n"
            "        z = given[0].clone()\n"
            "        z[:, -1, head * size:(head + 1) * size] = source_z[layer][:, -1, head * size:(head + 1) * size]\n"
            "        return (z,)\n"
            "    hook = subject.model.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(change)\n"
            "    logits = subject.model(input_ids=base.input_ids).logits[:, -1]\n"
            "    hook.remove()\n"
            "    return logits.log_softmax(-1)[rows, base.answer_ids]",
            "held are all heads",
        ),
        (
            "base_z = [z.clone() for z in base_z]\n"
            "def direct_effect(layer, head):\n"
            "    mine, held = slice(head * size, (head + 1) * size), base_z[layer]\n"
            "    held[rows, base.last, mine] = source_z[layer][rows, source.last, mine]\n"
            "    hooks = [block.self_attn.o_proj.register_forward_pre_hook(lambda module, given, z=z: (z,))\n"
            "             for block, z in zip(subject.model.model.layers, base_z)]\n"
            "    with torch.no_grad():\n"
            "        logits = subject.model(input_ids=base.input_ids).logits[:, -1]\n"
            "    [hook.remove() for hook in hooks]\n"
            "    return logits.log_softmax(-1)[rows, base.answer_ids]",
            "no longer what the model said",
        ),
        (
            "def direct_effect(layer, head):\n"
            "    for block in subject.model.model.layers:\n"
            "        block.self_attn.o_proj.register_forward_pre_hook(lambda module, given: None)\n"
            "    raise RuntimeError('in the middle')",
            "stopped with RuntimeError: in the middle",
        ),
        (
            "def direct_effect(layer, head):\n"
            "    with torch.no_grad(), lens.trace(input_ids=base.input_ids, use_cache=False, logits_to_keep=1):\n"
            "        logits = lens.lm_head.output[:, -1]\n"
            "    return logits.log_softmax(-1)[rows, base.answer_ids]",
            "gets `.save\\(\\)`",
        ),
    ],
    "3.3": [
        (
            "def second_pass(queries, receivers):\n"
            "    return subject.model(input_ids=base.input_ids).logits[:, -1].log_softmax(-1)[rows, base.answer_ids].detach()",
            "new are the queries",
        ),
        (
            "def second_pass(queries, receivers):\n"
            "    hooks = []\n"
            "    for number, block in enumerate(subject.model.model.layers):\n"
            "        if number in queries and any(one.layer == number for one in receivers):\n"
            "            def change(module, given, out, number=number):\n"
            "                out[rows, base.last] = queries[number].flatten(-2)\n"
            "            hooks.append(block.self_attn.q_proj.register_forward_hook(change))\n"
            "    with torch.no_grad():\n"
            "        logits = subject.model(input_ids=base.input_ids).logits[:, -1]\n"
            "    [hook.remove() for hook in hooks]\n"
            "    return logits.log_softmax(-1)[rows, base.answer_ids]",
            "these heads|new are the queries",
        ),
    ],
    "3.4": [
        (
            "def mean_of_ratios(before, after): return (after.mean(-1) - before.mean()) / before.mean()",
            "both functions",
        ),
        ("def ratio_of_means(before, after): return (after.mean(-1) - before.mean()) / after.mean()", "ratio_of_means"),
        ("def culprit(before, one): return int((one - before).abs().argmax())", "furthest"),
    ],
    "3.5": [
        (
            "def z_of(attention, v): return torch.einsum('nht,nthd->nhd', attention, v.repeat(1, 1, attention.shape[1] // v.shape[2], 1))",
            "share 2 sets",
        ),
        ("def z_of(attention, v): return torch.einsum('nht,nthd->nhd', attention, v)", "stopped with"),
    ],
    "4.1": [
        (
            "def ablated(keep):\n"
            "    hooks = []\n"
            "    for layer, block in enumerate(subject.model.model.layers):\n"
            "        out = [h for h in range(subject.heads) if h not in keep.get(layer, [])]\n"
            "        def change(module, given, out=out):\n"
            "            z = given[0].clone().unflatten(-1, (-1, size)); z[:, :, out] = 0\n"
            "            return (z.flatten(-2),)\n"
            "        hooks.append(block.self_attn.o_proj.register_forward_pre_hook(change))\n"
            "    with torch.no_grad():\n"
            "        logits = subject.model(input_ids=p.input_ids, use_cache=False, logits_to_keep=1).logits[:, -1]\n"
            "    [hook.remove() for hook in hooks]\n"
            "    return logits",
            "give their mean",
        ),
        (
            "def ablated(keep):\n"
            "    hooks = []\n"
            "    for layer in keep:\n"
            "        out = [h for h in range(subject.heads) if h not in keep[layer]]\n"
            "        def change(module, given, out=out, layer=layer):\n"
            "            z = given[0].clone().unflatten(-1, (-1, size)); z[:, :, out] = means[layer][:, out]\n"
            "            return (z.flatten(-2),)\n"
            "        hooks.append(subject.model.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(change))\n"
            "    with torch.no_grad():\n"
            "        logits = subject.model(input_ids=p.input_ids, use_cache=False, logits_to_keep=1).logits[:, -1]\n"
            "    [hook.remove() for hook in hooks]\n"
            "    return logits",
            "no head is kept",
        ),
    ],
    "4.2": [
        (
            "def greedy(score, parts):\n    o = sorted(parts, key=lambda x: -score([x]))\n    return [(x, score(o[:i + 1])) for i, x in enumerate(o)]",
            "its twin brings nothing",
        ),
        ("def greedy(score, parts): return [(parts[0], score(parts[:1]))] * 4", "each part is added once"),
    ],
    "4.3": [
        (
            "def knockout_mask(width, position, key):\n"
            "    m = torch.full((width, width), -1e9).triu(1).expand(len(key), 1, -1, -1).clone()\n"
            "    m[:, 0, :, key[0]] = -1e9\n"
            "    return m",
            "closed are the cells",
        ),
        (
            "def knockout_mask(width, position, key):\n"
            "    m = torch.zeros(len(key), 1, width, width)\n"
            "    m[torch.arange(len(key)), 0, position, key] = -1e9\n"
            "    return m",
            "causal",
        ),
        (
            "def knockout_mask(width, position, key):\n"
            "    m = torch.ones(len(key), 1, width, width).tril()\n"
            "    m[torch.arange(len(key)), 0, position, key] = 0\n"
            "    return m",
            "causal|is 0",
        ),
    ],
    "4.4": [
        (
            "def ceiling(scores, contexts, k):\n"
            "    best = [set(s.mean(1).argsort()[:k].tolist()) for s in (scores, scores[:, contexts % 2 == 0])]\n"
            "    return len(best[0] & best[1]) / k",
            "share no example",
        ),
        (
            "def ceiling(scores, contexts, k):\n"
            "    even = contexts % 2 == 0\n"
            "    best = [set(scores[:, h].mean(1).argsort(descending=True)[:k].tolist()) for h in (even, ~even)]\n"
            "    return len(best[0] & best[1]) / k",
            "most negative",
        ),
        (
            "def ceiling(scores, contexts, k):\n"
            "    even = contexts % 2 == 0\n"
            "    best = [set(scores[:, h].mean(1).argsort()[:k].tolist()) for h in (even, ~even)]\n"
            "    return len(best[0] & best[1]) / len(best[0] | best[1])",
            "divide the shared heads by k|most negative",
        ),
    ],
    "5.1": [
        (
            "def predicted(bo, bl, ba, so, sl, sa):\n"
            "    return {'base': bo[ba], 'position': so[ba], 'object': so[sa], 'label': bo[bl.index(sl[sa])]}",
            "`position`",
        ),
        (
            "def predicted(bo, bl, ba, so, sl, sa):\n"
            "    return {'base': bo[ba], 'position': bo[sa], 'object': so[sa], 'label': so[sl.index(bl[ba])]}",
            "`label`",
        ),
        ("def all_differ(words): return words['position'] != words['label']", "differ"),
    ],
    "5.2": [
        (
            "def patched_tops(heads):\n    return subject.model(input_ids=base.input_ids).logits[:, -1].argmax(-1)",
            "not the library's",
        ),
        (
            "def answer_table(top, candidates, names):\n"
            "    return dict(zip(names, (top[:, None] == candidates).sum(0).tolist()))",
            "'other'",
        ),
    ],
    "5.3": [
        (
            "def mask_step(w, loss_of, penalty, rate):\n"
            "    w = w.detach().clone().requires_grad_(True)\n"
            "    (g,) = torch.autograd.grad(loss_of(w) + penalty * (1 - w).sum(), w)\n"
            "    return (w - rate * g).detach()",
            "clamp",
        ),
        (
            "def mask_step(w, loss_of, penalty, rate):\n"
            "    w = w.detach().clone().requires_grad_(True)\n"
            "    (g,) = torch.autograd.grad(loss_of(w) + penalty * w.sum(), w)\n"
            "    return (w - rate * g).detach().clamp(0, 1)",
            "wrong way",
        ),
        (
            "def mask_step(w, loss_of, penalty, rate):\n"
            "    w = w.detach().clone().requires_grad_(True)\n"
            "    (loss_of(w) + penalty * (1 - w).sum()).backward()\n"
            "    return (w - rate * w.grad).detach().clamp(0, 1)",
            "reached the weights",
        ),
    ],
    "5.4": [
        (
            "def floor_and_ceiling(plain, perfect, targets): return float((perfect == targets).double().mean()), float((plain == targets).double().mean())",
            "swapped",
        ),
        ("def void(floor, ceiling): return floor == 0", "void"),
    ],
    "6.1": [
        (
            "def cross_patch(heads, z):\n"
            "    return subject.model(input_ids=p.input_ids).logits[:, -1].log_softmax(-1)[rows, p.answer_ids].detach()",
            "differs from the library",
        ),
        (
            "def cross_patch(heads, z):\n"
            "    hooks = []\n"
            "    for one, said in zip(heads, z):\n"
            "        def hook(module, given, mine=slice(one.head * size, (one.head + 1) * size), said=said):\n"
            "            new = given[0].clone(); new[:, :, mine] = said[:, None]\n"
            "            return (new,)\n"
            "        hooks.append(subject.model.model.layers[one.layer].self_attn.o_proj.register_forward_pre_hook(hook))\n"
            "    with torch.no_grad():\n"
            "        logits = subject.model(input_ids=p.input_ids).logits[:, -1]\n"
            "    [hook.remove() for hook in hooks]\n"
            "    return logits.log_softmax(-1)[rows, p.answer_ids]",
            "something changed",
        ),
    ],
    "6.2": [
        (
            "def share(patched, base, tuned, contexts):\n"
            "    return float((patched.double() - base.double()).mean() / (tuned.double() - base.double()).mean())",
            "raise a ValueError",
        ),
        (
            "def share(patched, base, tuned, contexts): return float(patched.double().mean() / tuned.double().mean())",
            "what patching gains",
        ),
    ],
    "6.3": [
        (
            "def parts_of(a, b):\n"
            "    found = {f'layer {l}': [h for h in a if h.layer <= l] for l in sorted({h.layer for h in a})}\n"
            "    return {**found, 'A and B': [h for h in a if h in b], 'A without B': [h for h in a if h not in b]}",
            "two parts",
        ),
        (
            "def parts_of(a, b):\n"
            "    found = {f'layer {l}': [h for h in a if h.layer == l] for l in sorted({h.layer for h in a})}\n"
            "    return {**found, 'A and B': a + b, 'A without B': [h for h in a if h not in b]}",
            "two parts|not in A",
        ),
    ],
    "6.4": [
        (
            "def blame(gain, heads):\n    worst = min(heads, key=lambda h: gain[f'random, only {h}'])\n    return worst, gain['random'] - gain[f'random, only {worst}']",
            "alone",
        ),
        (
            "def blame(gain, heads):\n    worst = min(heads, key=lambda h: gain[f'random without {h}'])\n    return worst, 0.0",
            "removing another",
        ),
    ],
    "6.5": [
        (
            "def carries(z):\n"
            "    z = z - z.mean((0, 1))\n"
            "    c, p = z.mean(1, keepdim=True).expand_as(z), z.mean(0, keepdim=True).expand_as(z)\n"
            "    parts = {'context': c, 'place': p, 'rest': z - c - p}\n"
            "    return {name: float(part.square().sum() / z.square().sum()) for name, part in parts.items()}",
            "shares that sum to 1",
        ),
        (
            "right = carries\ndef carries(z): return right(z.transpose(0, 1))",
            "the wrong way round",
        ),
        (
            "def carries(z):\n"
            "    n, m, _ = z.shape\n"
            "    c, p = z.mean(1, keepdim=True).expand_as(z), z.mean(0, keepdim=True).expand_as(z)\n"
            "    parts = {'context': (c, n - 1), 'place': (p, m - 1), 'rest': (z - c - p, (n - 1) * (m - 1))}\n"
            "    whole = z.square().sum() / (n * m - 1)\n"
            "    return {name: float(part.square().sum() / whole / free) for name, (part, free) in parts.items()}",
            "is taken out first",
        ),
        ("harmful = 'context'", "read its line"),
    ],
    "7.1": [
        (
            "def verdict(value, low, high, floor): return 'replicates' if value > floor else 'does not'",
            "your rule says",
        ),
        (
            "def verdict(value, low, high, floor): return 'replicates' if low > 0 else 'partly' if value > 0 else 'does not'",
            "your rule says",
        ),
        (
            "def verdict(value, low, high, floor): return 'replicates' if low > floor else 'partly' if value > floor else 'does not'",
            "no number|no interval",
        ),
    ],
    "7.2": [
        (
            "attacks = {'by_value': (0.2, 0.1, 0.3, 0.0), 'by_upper_end': (-0.1, -0.6, 0.4, 0.0), 'above_zero': (0.16, 0.1, 0.22, 0.14)}",
            "is right",
        ),
        (
            "attacks = {'by_value': (0.2, -0.3, 0.7, 0.0), 'by_upper_end': (-0.1, -0.6, -0.05, 0.0), 'above_zero': (0.16, 0.1, 0.22, 0.14)}",
            "has to fool",
        ),
        (
            "attacks = {'by_value': (0.2, -0.3, 0.7, 0.0), 'by_upper_end': (0.1, -0.6, 0.4, 0.0), 'above_zero': (0.16, 0.1, 0.22, 0.14)}",
            "below the floor",
        ),
    ],
    "7.3": [
        ("def by_luck(k, n):\n    from scipy import stats\n    return float(stats.binom.sf(k - 1, n, 0.05))", "0.025"),
        ("def by_luck(k, n):\n    from scipy import stats\n    return float(stats.binom.sf(k, n, 0.025))", "more than"),
    ],
    "8.1": [
        (
            "def texts_of(names):\n"
            "    return [{'text': f'Then, {a} and {b} went to the shop. {b} gave a drink to', 'answer': ' ' + a, 'wrong': ' ' + b}\n"
            "            for a, b in zip(names, names[1:] + names[:1])] + [\n"
            "            {'text': f'Then, {a} and {b} went to the shop. {b} gave a drink to', 'answer': ' ' + a, 'wrong': ' ' + b}\n"
            "            for b, a in zip(names, names[1:] + names[:1])]",
            "said first",
        ),
        (
            "def texts_of(names):\n"
            "    return [{'text': f'Then, {a} and {b} went to the shop. {b} gave a drink to', 'answer': a, 'wrong': b} for a in names for b in names if a != b]",
            "space before it",
        ),
    ],
    "8.2": [
        (
            "def logit_difference(logits, answers, wrong):\n    r = torch.arange(len(answers))\n    return logits[r, wrong] - logits[r, answers]",
            "sign",
        ),
        ("def logit_difference(logits, answers, wrong): return logits[:, answers] - logits[:, wrong]", "shape"),
    ],
    "8.3": [
        (
            "rounds = [Round('writers', 'last'), Round('readers', 'last', into='writers', through='q')]",
            "stand at `again`",
        ),
        (
            "rounds = [Round('writers', 'last'), Round('readers', 'again', into='writers', through='q')]",
            "keys or values",
        ),
        ("def positions(made): return {'again': [(one['answer'].strip(), 1) for one in made]}", "is the second"),
    ],
}
