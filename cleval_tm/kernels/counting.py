"""From the match relation to the integer counts of an image."""

from __future__ import annotations

import numpy as np

from cleval_tm.kernels._jit import inner

DIAGONAL, UP, LEFT = range(3)


@inner
def count_claims(relation, pair_gt, pair_det, hit_count, hit_start, hits, claims, claim_start):
    """Count for each character of each word how many matched detections contain it.

    Args:
        claims: (C,) int64 zeros, filled; word g's from ``claim_start[g]`` on.

    Returns:
        (hits in matched pairs, characters claimed at least once).
    """
    total = 0
    first_claims = 0
    for p in range(len(relation)):
        if relation[p] == 0:
            continue
        total += hit_count[p]
        at = claim_start[pair_gt[p]] - claim_start[0]
        for k in range(hit_start[p + 1] - hit_start[p]):
            if hits[hit_start[p] + k]:
                first_claims += claims[at + k] == 0
                claims[at + k] += 1
    return total, first_claims


@inner
def reading_order(g, matched, n_matched, hit_start, hits, ordered):
    """Put a word's matched pairs in the order in which its characters meet them.

    Args:
        matched: (n_matched,) int64 pairs, by detection; each that is put in order becomes -1.
        ordered: (n_matched,) int64, filled.

    Returns:
        how many were put in order; pairs that no character is left for are left out.
    """
    length = hit_start[matched[0] + 1] - hit_start[matched[0]]
    size = 0
    for k in range(length):
        if size >= n_matched - 1:
            break
        for m in range(n_matched):
            p = matched[m]
            if p >= 0 and hits[hit_start[p] + k]:
                ordered[size] = p
                matched[m] = -1
                size += 1
                break
    for m in range(n_matched):
        if matched[m] >= 0:
            ordered[size] = matched[m]
            return size + 1
    return size


@inner
def common_subsequence(a, b, prefers_left, letters):
    """Write a longest common subsequence of ``a`` and ``b`` (int32) to ``letters``, last letter first.

    Among several, the one found by tracing the table of prefix lengths back from its end; off the diagonal it
    goes up only if that is strictly longer, or left only if that is (``prefers_left``).

    Returns:
        its length.
    """
    n_a = len(a)
    n_b = len(b)
    size = 0
    while n_a > 0 and n_b > 0 and a[n_a - 1] == b[n_b - 1]:
        n_a -= 1
        n_b -= 1
        letters[size] = a[n_a]
        size += 1
    if n_a == 0 or n_b == 0:
        return size
    step = np.empty((n_a, n_b), np.uint8)
    lengths = np.zeros(n_b + 1, np.int32)
    for i in range(n_a):
        corner = 0
        for j in range(n_b):
            up = lengths[j + 1]
            left = lengths[j]
            if a[i] == b[j]:
                step[i, j] = DIAGONAL
                lengths[j + 1] = corner + 1
            else:
                goes_up = left <= up if prefers_left else up > left
                step[i, j] = UP if goes_up else LEFT
                lengths[j + 1] = max(up, left)
            corner = up
    i = n_a - 1
    j = n_b - 1
    while i >= 0 and j >= 0:
        if step[i, j] == DIAGONAL:
            letters[size] = a[i]
            size += 1
            i -= 1
            j -= 1
        elif step[i, j] == UP:
            i -= 1
        else:
            j -= 1
    return size


@inner
def read_remaining(ordered, n_ordered, pair_det, det, det_first, taken, text):
    """Concatenate the letters that are left of the ordered pairs' detections into ``text``; return how many."""
    base = det.letter_start[det_first]
    size = 0
    for m in range(n_ordered):
        d = det_first + pair_det[ordered[m]]
        for at in range(det.letter_start[d], det.letter_start[d + 1]):
            if not taken[at - base]:
                text[size] = det.letters[at]
                size += 1
    return size


@inner
def take_letters(letters, size, ordered, n_ordered, pair_det, det, det_first, taken):
    """Remove each letter, first to last, from the first of the ordered detections that still has it."""
    base = det.letter_start[det_first]
    for at_letter in range(size - 1, -1, -1):
        removed = False
        for m in range(n_ordered):
            d = det_first + pair_det[ordered[m]]
            for at in range(det.letter_start[d], det.letter_start[d + 1]):
                if not taken[at - base] and det.letters[at] == letters[at_letter]:
                    taken[at - base] = True
                    removed = True
                    break
            if removed:
                break


@inner
def count_letters(
    gt, gt_first, det, det_first, n_det, ignored, order, relation, pair_det, gt_start, gt_pairs, hit_start, hits, left
):
    """Sum over the words of the letters that their detections read right, each letter of a text used once."""
    base = det.letter_start[det_first]
    n_letters = det.letter_start[det_first + n_det] - base
    taken = np.zeros(n_letters, np.bool_)
    text = np.empty(n_letters, np.int32)
    matched = np.empty(n_det, np.int64)
    ordered = np.empty(n_det, np.int64)
    total = 0
    for t in range(len(order)):
        g = order[t]
        if ignored[g]:
            continue
        n_matched = 0
        for at in range(gt_start[g], gt_start[g + 1]):
            if relation[gt_pairs[at]] != 0:
                matched[n_matched] = gt_pairs[at]
                n_matched += 1
        if n_matched == 0:
            continue
        n_ordered = reading_order(g, matched, n_matched, hit_start, hits, ordered)
        size = read_remaining(ordered, n_ordered, pair_det, det, det_first, taken, text)
        truth = gt.letters[gt.letter_start[gt_first + g] : gt.letter_start[gt_first + g + 1]]
        letters = np.empty(min(len(truth), size), np.int32)
        size = common_subsequence(truth, text[:size], left, letters)
        take_letters(letters, size, ordered, n_ordered, pair_det, det, det_first, taken)
        total += size
    return total
