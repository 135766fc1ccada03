"""From the match relation to the integer counts of an image."""

from __future__ import annotations

import numpy as np

from cleval_tm.kernels._jit import Bools, Bytes, Ints, Letters, inner, kernel
from cleval_tm.kernels.characters import lengths_of
from cleval_tm.kernels.matching import Detections, Options, Pairs, Words, group_pairs

DIAGONAL, UP, LEFT = range(3)


@inner
def count_claims(
    relation: Bytes,
    pair_gt: Ints,
    hit_count: Ints,
    hit_start: Ints,
    hits: Bytes,
    claims: Ints,
    claim_start: Ints,
) -> tuple[int, int]:
    """Count for each character of each word how many matched detections contain it.

    Args:
        claims: (C,) int64 zeros, filled; word g's from ``claim_start[g] - claim_start[0]`` on.

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
                if claims[at + k] == 0:
                    first_claims += 1
                claims[at + k] += 1
    return total, first_claims


@inner
def reading_order(matched: Ints, n_matched: int, hit_start: Ints, hits: Bytes, ordered: Ints) -> int:
    """Put a word's matched pairs in the order in which its characters meet them.

    Args:
        matched: its pairs, ``n_matched`` of them, by detection; each that is put in order becomes -1.
        ordered: filled.

    Returns:
        how many were put in order; pairs that no character is left for are left out.
    """
    size = 0
    for k in range(hit_start[matched[0] + 1] - hit_start[matched[0]] if n_matched > 1 else 0):
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
def common_subsequence(a: Letters, b: Letters, prefers_left: bool, letters: Letters) -> int:
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
def read_alike(
    gt_letters: Letters,
    gt_letter_start: Ints,
    g: int,
    letters: Letters,
    letter_start: Ints,
    d: int,
    taken: Bools,
) -> int:
    """Take the whole text of detection ``d`` where it is that of word ``g``; return its length, or -1 where not."""
    size: int = letter_start[d + 1] - letter_start[d]
    if gt_letter_start[g + 1] - gt_letter_start[g] != size:
        return -1
    first = letter_start[d] - letter_start[0]
    for k in range(size):
        if letters[letter_start[d] + k] != gt_letters[gt_letter_start[g] + k] or taken[first + k]:
            return -1
    for k in range(size):
        taken[first + k] = True
    return size


@inner
def read_remaining(
    ordered: Ints,
    n_ordered: int,
    pair_det: Ints,
    letters: Letters,
    letter_start: Ints,
    taken: Bools,
    text: Letters,
) -> int:
    """Write what is left of the texts of the ordered pairs' detections to ``text``; return how many letters."""
    size = 0
    for m in range(n_ordered):
        d = pair_det[ordered[m]]
        for at in range(letter_start[d], letter_start[d + 1]):
            if not taken[at - letter_start[0]]:
                text[size] = letters[at]
                size += 1
    return size


@inner
def take_letters(
    found: Letters,
    size: int,
    ordered: Ints,
    n_ordered: int,
    pair_det: Ints,
    letters: Letters,
    letter_start: Ints,
    taken: Bools,
) -> None:
    """Remove each letter found, first to last, from the first of the ordered detections that still has it."""
    for at_letter in range(size - 1, -1, -1):
        searching = True
        for m in range(n_ordered):
            d = pair_det[ordered[m]]
            for at in range(letter_start[d], letter_start[d + 1]):
                if searching and letters[at] == found[at_letter] and not taken[at - letter_start[0]]:
                    taken[at - letter_start[0]] = True
                    searching = False


@inner
def count_letters(
    gt_letters: Letters,
    gt_letter_start: Ints,
    letters: Letters,
    letter_start: Ints,
    order: Ints,
    relation: Bytes,
    pair_gt: Ints,
    pair_det: Ints,
    hit_start: Ints,
    hits: Bytes,
    prefers_left: bool,
) -> int:
    """Letters of one image's words that their detections read right, each letter of a text used once.

    Args:
        gt_letters, letters: int32 letters of all words and of all detections.
        gt_letter_start, letter_start: (n + 1,) int64 of this image's words and detections.
        order: (n_gt,) int64.
        relation, pair_gt, pair_det: (M,) of this image.
        hit_start, hits: (M + 1,), (H,).
    """
    taken = np.zeros(letter_start[len(letter_start) - 1] - letter_start[0], np.bool_)
    text = np.empty(len(taken), np.int32)
    matched = np.empty(len(letter_start), np.int64)
    ordered = np.empty(len(letter_start), np.int64)
    gt_start, gt_pairs = group_pairs(pair_gt, len(order))
    total = 0
    for t in range(len(order)):
        g = order[t]
        n_matched = 0
        for at in range(gt_start[g], gt_start[g + 1]):
            if relation[gt_pairs[at]] != 0:
                matched[n_matched] = gt_pairs[at]
                n_matched += 1
        if n_matched == 0:
            continue
        if n_matched == 1:
            size = read_alike(
                gt_letters, gt_letter_start, g, letters, letter_start, pair_det[matched[0]], taken
            )
            if size >= 0:
                total += size
                continue
        n_ordered = reading_order(matched, n_matched, hit_start, hits, ordered)
        size = read_remaining(ordered, n_ordered, pair_det, letters, letter_start, taken, text)
        truth = gt_letters[gt_letter_start[g] : gt_letter_start[g + 1]]
        found = np.empty(min(len(truth), size), np.int32)
        size = common_subsequence(truth, text[:size], prefers_left, found)
        take_letters(found, size, ordered, n_ordered, pair_det, letters, letter_start, taken)
        total += size
    return total


@inner
def count_sides(
    relation: Bytes,
    pair_gt: Ints,
    pair_det: Ints,
    ignored: Bools,
    det_ignored: Bools,
    char_start: Ints,
    letter_start: Ints,
    detections: Detections,
    det_first: int,
    options: Options,
    row: Ints,
) -> None:
    """Fill the columns of ``row`` that tell of words or detections one by one."""
    gt_matches = np.zeros(len(ignored), np.int64)
    det_matches = np.zeros(len(det_ignored), np.int64)
    for p in range(len(relation)):
        if relation[p] != 0:
            gt_matches[pair_gt[p]] += 1
            det_matches[pair_det[p]] += 1
    for g in range(len(ignored)):
        if ignored[g]:
            row[18] += 1  # ignored_gt
            continue
        row[16] += 1  # words_gt
        row[0] += char_start[g + 1] - char_start[g]  # chars_gt
        if gt_matches[g] > 1:
            row[6] += 1  # splits
            row[3] += gt_matches[g] - 1  # recall_granularity
    for d in range(len(det_ignored)):
        if det_ignored[d]:
            row[19] += 1  # ignored_det
            continue
        length = letter_start[d + 1] - letter_start[d]
        row[17] += 1  # words_det
        row[11] += length  # e2e_chars_det
        if det_matches[d] == 0:
            row[9] += 1  # false_positives
            s = det_first + d
            row[5] += lengths_of(  # det_fp_chars
                detections.points,
                detections.ring_start[s],
                detections.ring_start[s + 1],
                detections.style[s],
                detections.rectangle_aspect[s],
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
    relation: Bytes, pair_gt: Ints, pair_det: Ints, gt_label: Ints, det_label: Ints, row: Ints
) -> None:
    """Fill the columns of orientation."""
    for p in range(len(relation)):
        if relation[p] != 0:
            label = gt_label[pair_gt[p]]
            other = det_label[pair_det[p]]
            if label >= 0 and other >= 0:
                row[14] += 1  # orientation_pairs
                if label == other:
                    row[15] += 1  # orientation_correct


@kernel
def count_matches(
    words: Words,
    gt_image: Ints,
    detections: Detections,
    first: int,
    last: int,
    pairs: Pairs,
    relation: Bytes,
    det_ignored: Bools,
    options: Options,
    table: Ints,
) -> Ints:
    """Add up rows ``first`` to ``last`` of the table of counts.

    Args:
        words, gt_image, detections, first, last: as for :func:`cleval_tm.kernels.matching.find_pairs`.
        pairs, relation, det_ignored, options: as of :func:`cleval_tm.kernels.matching.relate_pairs`.
        table: (n, V, 21) int64 zeros, filled; columns in the order of ``cleval_tm.counts.COUNTS``.

    Returns:
        (V, C) int64: for each pseudo character of these images' words, matched detections that contain it.
    """
    views = len(words.ignored)
    n_chars = 0
    for image in range(first, last):
        gt_first = words.image_start[gt_image[image]]
        gt_last = words.image_start[gt_image[image] + 1]
        n_chars += words.char_start[gt_last] - words.char_start[gt_first]
    claims = np.zeros((views, n_chars), np.int64)
    n_chars = 0
    base = detections.image_start[first]
    for image in range(first, last):
        gt_first = words.image_start[gt_image[image]]
        gt_last = words.image_start[gt_image[image] + 1]
        det_first = detections.image_start[image]
        det_last = detections.image_start[image + 1]
        start = pairs.image_start[image - first]
        end = pairs.image_start[image - first + 1]
        pair_gt = pairs.gt[start:end]
        pair_det = pairs.det[start:end]
        hit_start = pairs.hit_start[start : end + 1]
        char_start = words.char_start[gt_first : gt_last + 1]
        letter_start = detections.letter_start[det_first : det_last + 1]
        image_chars = char_start[gt_last - gt_first] - char_start[0]
        irregular = 0
        for g in range(gt_first, gt_last):
            irregular += words.irregular[g]
        for d in range(det_first, det_last):
            irregular += detections.irregular[d]
        for view in range(views):
            row = table[image, view]
            related = relation[view, start:end]
            contained, first_claims = count_claims(
                related,
                pair_gt,
                pairs.hit_count[start:end],
                hit_start,
                pairs.hits,
                claims[view, n_chars : n_chars + image_chars],
                char_start,
            )
            count_sides(
                related,
                pair_gt,
                pair_det,
                words.ignored[view, gt_first:gt_last],
                det_ignored[view, det_first - base : det_last - base],
                char_start,
                letter_start,
                detections,
                det_first,
                options,
                row,
            )
            count_labels(
                related,
                pair_gt,
                pair_det,
                words.label[gt_first:gt_last],
                detections.label[det_first:det_last],
                row,
            )
            row[1] = contained + row[5]  # chars_det
            row[2] = first_claims  # det_tp
            row[8] = contained - first_claims  # overlaps
            if options.reads_text:
                row[10] = count_letters(  # e2e_tp
                    words.letters,
                    words.letter_start[gt_first : gt_last + 1],
                    detections.letters,
                    letter_start,
                    words.order[view, gt_first:gt_last],
                    related,
                    pair_gt,
                    pair_det,
                    hit_start,
                    pairs.hits,
                    options.lcs_prefers_left,
                )
            row[12] = row[11] - row[10]  # e2e_fp_chars
            row[20] = irregular
        n_chars += image_chars
    return claims
