// The contract of an exported model in Kotlin: pictures become inputs, and outputs become answers, as in training.
//
// edgedistill (targets/mobile) makes this file. Its reference is targets/harness/picture.py, detections.py and maps.py, and the tests compare
// the results: resized pictures are equal in every byte to those of Pillow with BILINEAR. It needs nothing but Kotlin's own library.

package edgedistill

import kotlin.math.abs
import kotlin.math.ceil
import kotlin.math.exp
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min

/** A picture: `channels` (3 for RGB, 1 for grey) bytes per pixel, row by row, upright, without a row stride. */
class Picture(val width: Int, val height: Int, val channels: Int, val bytes: ByteArray) {
    init {
        require(bytes.size == width * height * channels) {
            "a picture of $width x $height x $channels has ${width * height * channels} bytes, not ${bytes.size}"
        }
    }
}

/**
 * How a picture becomes an input: `rule` resizes it ("crop", "letterbox", "letterbox-corner", "stretch", or null for none), with borders
 * of the grey level `padding`. An input of floats is then (x / divideBy - mean) / std, with the channels first.
 */
class PictureRules(
    val width: Int,
    val height: Int,
    val rule: String?,
    val padding: Int,
    val channels: Int,
    val divideBy: Float = 1f,
    val mean: FloatArray? = null,
    val std: FloatArray? = null,
)

/** How scores and boxes become detections: candidates score above `floor`; a better box of the class suppresses those with more `overlap`. */
class DetectionRules(val floor: Float, val overlap: Float, val limit: Int)

/** A detected object: its class, its score, and its corners in pixels of the picture. */
class Detection(val label: Int, val score: Float, val x1: Float, val y1: Float, val x2: Float, val y2: Float)

/** The part of a picture that is resized to `width` x `height` and lies at (x, y) in the input. */
class Place(
    val left: Double,
    val top: Double,
    val right: Double,
    val bottom: Double,
    val width: Int,
    val height: Int,
    val x: Int,
    val y: Int,
)

/** Returns the bytes of an input (1, height, width, channels) for a model that takes uint8. */
fun bytesOf(picture: Picture, rules: PictureRules): ByteArray {
    require(picture.channels == rules.channels) {
        "the picture has ${picture.channels} channels; the model takes ${rules.channels}"
    }
    if (rules.rule == null) {
        require(picture.width == rules.width && picture.height == rules.height) {
            "the picture is ${picture.width}x${picture.height}; the model takes ${rules.width}x${rules.height}, and has no rule for resizing"
        }
        return picture.bytes
    }
    val place = placeOf(picture.width, picture.height, rules)
    val small = resized(picture, place)
    if (place.width == rules.width && place.height == rules.height) return small
    val canvas = ByteArray(rules.width * rules.height * rules.channels) { rules.padding.toByte() }
    val row = place.width * rules.channels
    for (y in 0 until place.height) {
        small.copyInto(canvas, ((place.y + y) * rules.width + place.x) * rules.channels, y * row, (y + 1) * row)
    }
    return canvas
}

/** Returns the values of an input (1, channels, height, width) for a model that takes float32. */
fun floatsOf(picture: Picture, rules: PictureRules): FloatArray {
    val bytes = bytesOf(picture, rules)
    val pixels = rules.width * rules.height
    val values = FloatArray(bytes.size)
    for (c in 0 until rules.channels) {
        val mean = rules.mean?.get(c) ?: 0f
        val std = rules.std?.get(c) ?: 1f
        for (i in 0 until pixels) {
            values[c * pixels + i] = ((bytes[i * rules.channels + c].toInt() and 255) / rules.divideBy - mean) / std
        }
    }
    return values
}

/** Returns where a picture of a size lies in the input. */
fun placeOf(width: Int, height: Int, rules: PictureRules): Place {
    val right = width.toDouble()
    val bottom = height.toDouble()
    if (rules.rule == "stretch") return Place(0.0, 0.0, right, bottom, rules.width, rules.height, 0, 0)
    if (rules.rule == "crop") {
        val ratio = rules.width.toDouble() / rules.height
        val own = right / bottom
        val w = if (own > ratio) ratio * bottom else right
        val h = if (own < ratio) right / ratio else bottom
        val left = (right - w) * 0.5
        val top = (bottom - h) * 0.5
        return Place(left, top, left + w, top + h, rules.width, rules.height, 0, 0)
    }
    require(rules.rule == "letterbox" || rules.rule == "letterbox-corner") { "unknown rule '${rules.rule}'" }
    val fillsWidth = rules.width.toLong() * height <= rules.height.toLong() * width
    val w = if (fillsWidth) rules.width else max(1L, (2L * width * rules.height + height) / (2L * height)).toInt()
    val h = if (fillsWidth) max(1L, (2L * height * rules.width + width) / (2L * width)).toInt() else rules.height
    val isCentred = rules.rule == "letterbox"
    val x = if (isCentred) (rules.width - w) / 2 else 0
    val y = if (isCentred) (rules.height - h) / 2 else 0
    return Place(0.0, 0.0, right, bottom, w, h, x, y)
}

/** Resizes the part of a picture at a place, first along x, then along y, as Pillow does it with BILINEAR. */
private fun resized(picture: Picture, place: Place): ByteArray {
    val channels = picture.channels
    var bytes = picture.bytes
    if (place.width != picture.width || place.left != 0.0 || place.right != picture.width.toDouble()) {
        val taps = Taps(picture.width, place.left, place.right, place.width)
        bytes = along(bytes, taps, picture.height, picture.width * channels, place.width * channels, channels)
    }
    if (place.height != picture.height || place.top != 0.0 || place.bottom != picture.height.toDouble()) {
        val taps = Taps(picture.height, place.top, place.bottom, place.height)
        val row = place.width * channels
        bytes = along(bytes, taps, 1, bytes.size, row * place.height, row)
    }
    return bytes
}

/** Sums the `step` values of each tap, for each of `lines` lines. */
private fun along(from: ByteArray, taps: Taps, lines: Int, line: Int, wantedLine: Int, step: Int): ByteArray {
    val to = ByteArray(lines * wantedLine)
    val sums = IntArray(step)
    for (l in 0 until lines) {
        for (i in taps.first.indices) {
            sums.fill(1 shl (BITS - 1))
            val weights = taps.weights[i]
            for (tap in weights.indices) {
                val weight = weights[tap]
                val start = l * line + (taps.first[i] + tap) * step
                for (k in 0 until step) sums[k] += (from[start + k].toInt() and 255) * weight
            }
            val start = l * wantedLine + i * step
            for (k in 0 until step) to[start + k] = (sums[k] shr BITS).coerceIn(0, 255).toByte()
        }
    }
    return to
}

private const val BITS = 22 // Pillow rounds the weight of a pixel to this many binary places.

/** For each of `wanted` pixels of a line, the first of the `size` pixels that it is made of, and their weights in units of 2^-22. */
private class Taps(size: Int, from: Double, to: Double, wanted: Int) {
    val first = IntArray(wanted)
    val weights: Array<IntArray>

    init {
        val begin = from.toFloat() // Pillow reads the edges in float32
        val scale = (to.toFloat() - begin).toDouble() / wanted
        val support = max(scale, 1.0)
        weights = Array(wanted) { i ->
            val centre = begin + (i + 0.5) * scale
            first[i] = max((centre - support + 0.5).toInt(), 0)
            val last = min((centre + support + 0.5).toInt(), size)
            val near = DoubleArray(last - first[i]) { k ->
                max(1 - abs((first[i] + k - centre + 0.5) * (1.0 / support)), 0.0)
            }
            val sum = near.sum()
            IntArray(near.size) { k -> floor(near[k] / sum * (1 shl BITS) + 0.5).toInt() }
        }
    }
}

/** Returns the probability of each class for logits, for a model without the softmax. */
fun softmax(logits: FloatArray): FloatArray {
    val highest = logits.max()
    val exponentials = DoubleArray(logits.size) { exp((logits[it] - highest).toDouble()) }
    val sum = exponentials.sum()
    return FloatArray(logits.size) { (exponentials[it] / sum).toFloat() }
}

/** Returns the probability of each label for logits, for a model without the sigmoid. */
fun sigmoid(logits: FloatArray): FloatArray = FloatArray(logits.size) { (1 / (1 + exp(-logits[it].toDouble()))).toFloat() }

/** Returns the class of each pixel of the input for class maps (classes, mapHeight, mapWidth), resized bilinearly. */
fun classesOf(maps: FloatArray, mapWidth: Int, mapHeight: Int, rules: PictureRules): ByteArray {
    val rows = Mix(mapHeight, rules.height)
    val columns = Mix(mapWidth, rules.width)
    val area = mapWidth * mapHeight
    val classes = maps.size / area
    val answer = ByteArray(rules.width * rules.height)
    val best = FloatArray(rules.width)
    val line = FloatArray(mapWidth)
    for (y in 0 until rules.height) {
        best.fill(Float.NEGATIVE_INFINITY)
        for (c in 0 until classes) {
            val low = c * area + rows.low[y] * mapWidth
            val high = c * area + rows.high[y] * mapWidth
            for (x in 0 until mapWidth) line[x] = maps[low + x] * (1 - rows.share[y]) + maps[high + x] * rows.share[y]
            for (x in 0 until rules.width) {
                val value = line[columns.low[x]] * (1 - columns.share[x]) + line[columns.high[x]] * columns.share[x]
                if (value > best[x]) {
                    best[x] = value
                    answer[y * rules.width + x] = c.toByte()
                }
            }
        }
    }
    return answer
}

/** The two of `size` values that each of `wanted` values lies between, and the share of the second; corners are not aligned. */
private class Mix(size: Int, wanted: Int) {
    val low = IntArray(wanted)
    val high = IntArray(wanted)
    val share = FloatArray(wanted)

    init {
        for (i in 0 until wanted) {
            val place = max((i + 0.5) * (size.toDouble() / wanted) - 0.5, 0.0)
            low[i] = min(place.toInt(), size - 1)
            high[i] = min(low[i] + 1, size - 1)
            share[i] = (place - low[i]).toFloat()
        }
    }
}

/**
 * Returns the detections in scores (cells, classes) and boxes (cells, 4) in pixels of the input, the best first, in pixels of a picture of
 * `width` x `height`. Suppression is greedy, per class; boxes without an area are left out.
 */
fun detectionsOf(
    scores: FloatArray,
    boxes: FloatArray,
    width: Int,
    height: Int,
    rules: PictureRules,
    limits: DetectionRules,
): List<Detection> {
    val classes = scores.size / (boxes.size / 4)
    val candidates = scores.indices
        .filter { scores[it] > limits.floor && area(boxes, it / classes) != null }
        .sortedByDescending { scores[it] } // stable: equal scores keep the order of the outputs
    val kept = ArrayList<Int>()
    for (one in candidates) {
        if (kept.size == limits.limit) break
        if (kept.none { it % classes == one % classes && iou(boxes, it / classes, one / classes) > limits.overlap }) kept.add(one)
    }
    val place = if (rules.rule == null) null else placeOf(width, height, rules)
    return kept.map { one ->
        val box = FloatArray(4) { inPicture(boxes[one / classes * 4 + it], it % 2, width, height, place) }
        Detection(one % classes, scores[one], box[0], box[1], box[2], box[3])
    }
}

/** Returns a coordinate of the input, along x (axis 0) or y (axis 1), in pixels of the picture. */
private fun inPicture(value: Float, axis: Int, width: Int, height: Int, place: Place?): Float {
    val moved = when {
        place == null -> value.toDouble()
        axis == 0 -> (value - place.x) / (place.width / (place.right - place.left)) + place.left
        else -> (value - place.y) / (place.height / (place.bottom - place.top)) + place.top
    }
    return moved.coerceIn(0.0, (if (axis == 0) width else height).toDouble()).toFloat()
}

/** Returns the area of a box, or null for one without an area. */
private fun area(boxes: FloatArray, box: Int): Float? {
    val w = boxes[box * 4 + 2] - boxes[box * 4]
    val h = boxes[box * 4 + 3] - boxes[box * 4 + 1]
    return if (w > 0 && h > 0) w * h else null
}

/** Returns the intersection over union of two boxes with an area. */
private fun iou(boxes: FloatArray, one: Int, other: Int): Float {
    val a = one * 4
    val b = other * 4
    val w = max(min(boxes[a + 2], boxes[b + 2]) - max(boxes[a], boxes[b]), 0f)
    val h = max(min(boxes[a + 3], boxes[b + 3]) - max(boxes[a + 1], boxes[b + 1]), 0f)
    val shared = w * h
    return shared / (area(boxes, one)!! + area(boxes, other)!! - shared)
}
