"""From an image's match relation to its integer counts."""

from __future__ import annotations

import numpy as np

from cleval_tm.kernels._jit import Bytes, Ints, Letters, inner
from cleval_tm.kernels._machine import nonneg
from cleval_tm.kernels.characters import lengths_of
from cleval_tm.kernels.matching import (
    DET,
    GT,
    HIT_COUNT,
    HIT_START,
    Detections,
    Options,
    Pairs,
    Words,
)

DIAGONAL, UP, LEFT = range(3)


@inner
def count_claims(
    relation: Bytes,
    pairs: Pairs,
    gt_matches: Ints,
    char_start: Ints,
    gt_first: int,
    claims: Ints,
    whole: bool,
) -> tuple[int, int]:
    """Count for each character of an image's words how many matched detections contain it.

    Args:
        gt_matches: (n_gt,) int64, see :func:`count_matches`.
        char_start: (S + 1,) int64 of all words, ``gt_first`` the image's first.
        claims: (C,) int64 zeros, filled; the first is the first character of the image.
        whole: fill all of ``claims``; else only where several detections claim.

    Returns:
        (hits in matched pairs, characters claimed at least once).
    """
    rows = pairs.rows
    hits = pairs.hits
    total = 0
    first_claims = 0
    for p in range(len(relation)):
        if relation[p] == 0:
            continue
        total += rows[p, HIT_COUNT]
        if gt_matches[nonneg(rows[p, GT])] == 1 and not whole:
            first_claims += rows[p, HIT_COUNT]
            continue
        at = char_start[gt_first + rows[p, GT]] - char_start[gt_first] - rows[p, HIT_START]
        for hit in range(rows[p, HIT_START], rows[p + 1, HIT_START]):
            first_claims += hits[nonneg(hit)] > claims[nonneg(at + hit)]
            claims[nonneg(at + hit)] += hits[nonneg(hit)]
    return total, first_claims


@inner
def count_matches(relation: Bytes, rows: Ints, side: int, n: int) -> Ints:
    """How many matched pairs (n,) int64 each word, or each detection, is in; ``side`` is the column GT or DET."""
    matches = np.zeros(n, np.int64)
    for p in range(len(relation)):
        matches[nonneg(rows[p, side])] += relation[p] != 0
    return matches


@inner
def reading_order(matched: Ints, n_matched: int, rows: Ints, hits: Bytes, ordered: Ints) -> int:
    """Put a word's matched pairs in the order in which its characters meet them.

    Args:
        matched: its pairs, ``n_matched`` of them, by detection; each that is put in order becomes -1.
        ordered: filled.

    Returns:
        how many were put in order; pairs that no character is left for are left out.
    """
    size = 0
    for k in range(rows[matched[0] + 1, HIT_START] - rows[matched[0], HIT_START] if n_matched > 1 else 0):
        if size >= n_matched - 1:
            break
        for m in range(n_matched):
            p = matched[m]
            if p >= 0 and hits[rows[p, HIT_START] + k]:
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
def common_subsequence(
    a: Letters, first: int, last: int, b: Letters, n_b: int, prefers_left: bool, letters: Letters
) -> int:
    """Write a longest common subsequence of two texts to ``letters``, last letter first.

    One text is in rows ``first`` to ``last`` of ``a`` (int32), the other in the first ``n_b`` of ``b``.

    Among several, the one found by tracing the table of prefix lengths back from its end; off the diagonal it
    goes up only if that is strictly longer, or left only if that is (``prefers_left``).

    Returns:
        its length.
    """
    size = 0
    while last > first and n_b > 0 and a[last - 1] == b[n_b - 1]:
        last -= 1
        n_b -= 1
        letters[size] = a[last]
        size += 1
    n_a = last - first
    if n_a == 0 or n_b == 0:
        return size
    met = first
    for j in range(n_b):
        met += met < last and a[nonneg(met)] == b[j]
    if met == last:  # all of one text is in the other: nothing is longer
        for at in range(last - 1, first - 1, -1):
            letters[size] = a[at]
            size += 1
        return size
    step = np.empty((n_a, n_b), np.uint8)
    lengths = np.zeros(n_b + 1, np.int64)
    for i in range(n_a):
        corner = 0
        for j in range(n_b):
            up = lengths[j + 1]
            left = lengths[j]
            if a[first + i] == b[j]:
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
            letters[size] = a[first + i]
            size += 1
            i -= 1
            j -= 1
        elif step[i, j] == UP:
            i -= 1
        else:
            j -= 1
    return size


@inner
def common_length(
    a: Letters, a_first: int, a_last: int, b: Letters, b_first: int, b_last: int, row: Ints
) -> int:
    """Length of the longest common subsequence of two texts, rows of ``a`` and of ``b`` (int32).

    Args:
        row: scratch with more room than the second text has letters.
    """
    size: int = 0
    while a_first < a_last and b_first < b_last and a[nonneg(a_first)] == b[nonneg(b_first)]:
        a_first += 1
        b_first += 1
        size += 1
    while a_first < a_last and b_first < b_last and a[nonneg(a_last - 1)] == b[nonneg(b_last - 1)]:
        a_last -= 1
        b_last -= 1
        size += 1
    n = b_last - b_first
    if a_first < a_last and n > 0:
        for j in range(n + 1):
            row[j] = 0
        for i in range(a_first, a_last):
            corner = 0
            for j in range(n):
                above = row[j + 1]
                row[j + 1] = corner + 1 if a[nonneg(i)] == b[nonneg(b_first + j)] else max(above, row[j])
                corner = above
        size += row[n]
    return size


@inner
def read_remaining(
    ordered: Ints,
    n_ordered: int,
    rows: Ints,
    det_first: int,
    letters: Letters,
    letter_start: Ints,
    taken: Bytes,
    text: Letters,
) -> int:
    """Write what is left of the texts of the ordered pairs' detections to ``text``; return how many letters."""
    first = letter_start[det_first]
    size = 0
    for m in range(n_ordered):
        d = det_first + rows[ordered[m], DET]
        for at in range(letter_start[d], letter_start[d + 1] - 1):
            text[nonneg(size)] = letters[nonneg(at)]
            size += not taken[nonneg(at - first)]
    return size


@inner
def take_letter(
    letter: int,
    ordered: Ints,
    n_ordered: int,
    rows: Ints,
    det_first: int,
    letters: Letters,
    letter_start: Ints,
    taken: Bytes,
) -> None:
    """Remove a letter from the first of the ordered detections that still has it."""
    first = letter_start[det_first]
    for m in range(n_ordered):
        d = det_first + rows[ordered[m], DET]
        for at in range(letter_start[d], letter_start[d + 1] - 1):
            if letters[nonneg(at)] == letter and not taken[nonneg(at - first)]:
                taken[nonneg(at - first)] = 1
                return


@inner
def count_letters(
    words: Words,
    view: int,
    gt_first: int,
    gt_matches: Ints,
    detections: Detections,
    det_first: int,
    det_matches: Ints,
    pairs: Pairs,
    relation: Bytes,
    prefers_left: bool,
) -> int:
    """Letters of an image's words that their detections read right, each letter of a text used once.

    Args:
        words, view, gt_first, detections, det_first: the image's, see :class:`Words` and :class:`Detections`.
        gt_matches, det_matches: (n_gt,), (n_det,) int64, see :func:`count_matches`.
        pairs, relation: of the image, M pairs.
    """
    gt_letters = words.letters
    gt_letter_start = words.letter_start
    order = words.order
    letters = detections.letters
    letter_start = detections.letter_start
    rows = pairs.rows
    hits = pairs.hits
    n_det = len(det_matches)
    n_letters = letter_start[det_first + n_det] - letter_start[det_first]
    row = np.empty(n_letters + 1, np.int64)
    total = 0
    some_shared = False
    # Of words that share a detection, or have several: the first of their pairs, and behind each pair the next; or -1.
    first_pair = np.full(len(gt_matches), -1)
    next_pair = np.empty(len(relation), np.int64)
    for p in range(len(relation) - 1, -1, -1):
        if relation[p] == 0:
            continue
        g = gt_first + rows[p, GT]
        d = det_first + rows[p, DET]
        if gt_matches[rows[p, GT]] == 1 and det_matches[rows[p, DET]] == 1:
            total += common_length(
                gt_letters,
                gt_letter_start[g],
                gt_letter_start[g + 1] - 1,
                letters,
                letter_start[d],
                letter_start[d + 1] - 1,
                row,
            )
        else:
            next_pair[p] = first_pair[rows[p, GT]]
            first_pair[rows[p, GT]] = p
            some_shared = True
    if not some_shared:
        return total
    taken = np.zeros(n_letters, np.uint8)
    text = np.empty(n_letters + 1, np.int32)
    found = np.empty(n_letters, np.int32)
    matched = np.empty(n_det, np.int64)
    ordered = np.empty(n_det, np.int64)
    for t in range(len(gt_matches)):
        g = order[view, gt_first + t] if len(order) else t
        p = first_pair[g]
        if p < 0:
            continue
        n_matched = 0
        used_once = True  # by this word alone: then it does not matter which letters it takes
        while p >= 0:
            matched[n_matched] = p
            n_matched += 1
            used_once &= det_matches[rows[p, DET]] == 1
            p = next_pair[p]
        n_ordered = reading_order(matched, n_matched, rows, hits, ordered)
        size = read_remaining(ordered, n_ordered, rows, det_first, letters, letter_start, taken, text)
        first = gt_letter_start[gt_first + g]
        last = gt_letter_start[gt_first + g + 1] - 1
        if used_once:
            total += common_length(gt_letters, first, last, text, 0, size, row)
            continue
        size = common_subsequence(gt_letters, first, last, text, size, prefers_left, found)
        for at in range(size - 1, -1, -1):
            take_letter(found[at], ordered, n_ordered, rows, det_first, letters, letter_start, taken)
        total += size
    return total


@inner
def count_words(words: Words, view: int, gt_first: int, gt_matches: Ints, row: Ints) -> None:
    """Fill the columns of ``row`` that tell of words one by one."""
    ignored = words.ignored
    char_start = words.char_start
    for g in range(len(gt_matches)):
        if ignored[view, gt_first + g]:
            row[18] += 1  # ignored_gt
            continue
        row[16] += 1  # words_gt
        row[0] += char_start[gt_first + g + 1] - char_start[gt_first + g]  # chars_gt
        if gt_matches[g] > 1:
            row[6] += 1  # splits
            row[3] += gt_matches[g] - 1  # recall_granularity


@inner
def count_detections(
    detections: Detections, det_first: int, det_matches: Ints, det_ignored: Bytes, options: Options, row: Ints
) -> None:
    """Fill the columns of ``row`` that tell of detections one by one."""
    letter_start = detections.letter_start
    shapes = detections.shapes
    for d in range(len(det_matches)):
        if det_ignored[d]:
            row[19] += 1  # ignored_det
            continue
        s = det_first + d
        length = letter_start[s + 1] - letter_start[s] - 1
        row[17] += 1  # words_det
        row[11] += length  # e2e_chars_det
        if det_matches[d] == 0:
            row[9] += 1  # false_positives
            row[5] += lengths_of(  # det_fp_chars
                shapes.points,
                shapes.ring_start[s],
                shapes.ring_start[s + 1],
                shapes.style[s],
                shapes.rectangle_aspect[s],
                options.by_height,
                options.pseudo_length_cap,
            )[1]
        else:
            row[13] += length  # recognition_chars
        if det_matches[d] > 1:
            row[7] += 1  # merges
            row[4] += det_matches[d] - 1  # precision_granularity


@inner
def count_labels(
    relation: Bytes, pairs: Pairs, gt_label: Ints, gt_first: int, det_label: Ints, det_first: int, row: Ints
) -> None:
    """Fill the columns of orientation."""
    rows = pairs.rows
    if len(gt_label) == 0 or len(det_label) == 0:
        return
    for p in range(len(relation)):
        if relation[p] != 0:
            label = gt_label[gt_first + rows[p, GT]]
            other = det_label[det_first + rows[p, DET]]
            if label >= 0 and other >= 0:
                row[14] += 1  # orientation_pairs
                row[15] += label == other  # orientation_correct
