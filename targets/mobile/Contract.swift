// The contract of an exported model in Swift: pictures become inputs, and outputs become answers, as in training.
//
// edgedistill (targets/mobile) makes this file. Its reference is targets/harness/picture.py, detections.py and maps.py, and the tests compare
// the results: resized pictures are equal in every byte to those of Pillow with BILINEAR. It needs nothing but Foundation.

import Foundation

/// A picture: `channels` (3 for RGB, 1 for grey) bytes per pixel, row by row, upright, without a row stride.
public struct Picture {
    public let width: Int
    public let height: Int
    public let channels: Int
    public let bytes: [UInt8]

    public init(width: Int, height: Int, channels: Int, bytes: [UInt8]) {
        precondition(bytes.count == width * height * channels, "a picture has width x height x channels bytes")
        self.width = width
        self.height = height
        self.channels = channels
        self.bytes = bytes
    }
}

/// How pictures are resized.
public enum ResizeRule: String {
    case crop, letterbox, stretch
    case letterboxCorner = "letterbox-corner"
}

/// A picture that the contract does not take.
public struct ContractError: Error, CustomStringConvertible {
    public let description: String
}

/// How a picture becomes an input: `rule` resizes it, with borders of the grey level `padding`; nil takes pictures of the right size only.
/// An input of floats is then (x / divideBy - mean) / std, with the channels first.
public struct PictureRules {
    public let width: Int
    public let height: Int
    public let rule: ResizeRule?
    public let padding: UInt8
    public let channels: Int
    public let divideBy: Float
    public let mean: [Float]?
    public let std: [Float]?

    public init(
        width: Int, height: Int, rule: ResizeRule?, padding: UInt8, channels: Int,
        divideBy: Float = 1, mean: [Float]? = nil, std: [Float]? = nil
    ) {
        self.width = width
        self.height = height
        self.rule = rule
        self.padding = padding
        self.channels = channels
        self.divideBy = divideBy
        self.mean = mean
        self.std = std
    }
}

/// How scores and boxes become detections: candidates score above `floor`; a better box of the class suppresses those with more `overlap`.
public struct DetectionRules {
    public let floor: Float
    public let overlap: Float
    public let limit: Int

    public init(floor: Float, overlap: Float, limit: Int) {
        self.floor = floor
        self.overlap = overlap
        self.limit = limit
    }
}

/// A detected object: its class, its score, and its corners in pixels of the picture.
public struct Detection {
    public let label: Int
    public let score: Float
    public let x1: Float
    public let y1: Float
    public let x2: Float
    public let y2: Float
}

/// The part of a picture that is resized to `width` x `height` and lies at (x, y) in the input.
public struct Place {
    public let left: Double
    public let top: Double
    public let right: Double
    public let bottom: Double
    public let width: Int
    public let height: Int
    public let x: Int
    public let y: Int
}

/// Returns the bytes of an input (1, height, width, channels) for a model that takes uint8.
public func bytesOf(_ picture: Picture, _ rules: PictureRules) throws -> [UInt8] {
    guard picture.channels == rules.channels else {
        throw ContractError(description: "the picture has \(picture.channels) channels; the model takes \(rules.channels)")
    }
    guard let rule = rules.rule else {
        guard picture.width == rules.width, picture.height == rules.height else {
            throw ContractError(
                description: "the picture is \(picture.width)x\(picture.height); the model takes \(rules.width)x\(rules.height), "
                    + "and has no rule for resizing")
        }
        return picture.bytes
    }
    let place = placeOf(picture.width, picture.height, rules, rule)
    let small = resized(picture, place)
    if place.width == rules.width && place.height == rules.height { return small }
    var canvas = [UInt8](repeating: rules.padding, count: rules.width * rules.height * rules.channels)
    let row = place.width * rules.channels
    for y in 0..<place.height {
        let start = ((place.y + y) * rules.width + place.x) * rules.channels
        canvas.replaceSubrange(start..<start + row, with: small[y * row..<(y + 1) * row])
    }
    return canvas
}

/// Returns the values of an input (1, channels, height, width) for a model that takes float32.
public func floatsOf(_ picture: Picture, _ rules: PictureRules) throws -> [Float] {
    let bytes = try bytesOf(picture, rules)
    let pixels = rules.width * rules.height
    var values = [Float](repeating: 0, count: bytes.count)
    for c in 0..<rules.channels {
        let mean = rules.mean?[c] ?? 0
        let std = rules.std?[c] ?? 1
        for i in 0..<pixels {
            values[c * pixels + i] = (Float(bytes[i * rules.channels + c]) / rules.divideBy - mean) / std
        }
    }
    return values
}

/// Returns where a picture of a size lies in the input.
public func placeOf(_ width: Int, _ height: Int, _ rules: PictureRules, _ rule: ResizeRule) -> Place {
    let right = Double(width)
    let bottom = Double(height)
    if rule == .stretch {
        return Place(left: 0, top: 0, right: right, bottom: bottom, width: rules.width, height: rules.height, x: 0, y: 0)
    }
    if rule == .crop {
        let ratio = Double(rules.width) / Double(rules.height)
        let own = right / bottom
        let w = own > ratio ? ratio * bottom : right
        let h = own < ratio ? right / ratio : bottom
        let left = (right - w) * 0.5
        let top = (bottom - h) * 0.5
        return Place(
            left: left, top: top, right: left + w, bottom: top + h, width: rules.width, height: rules.height, x: 0, y: 0)
    }
    let fillsWidth = rules.width * height <= rules.height * width
    let w = fillsWidth ? rules.width : max(1, (2 * width * rules.height + height) / (2 * height))
    let h = fillsWidth ? max(1, (2 * height * rules.width + width) / (2 * width)) : rules.height
    let isCentred = rule == .letterbox
    return Place(
        left: 0, top: 0, right: right, bottom: bottom, width: w, height: h,
        x: isCentred ? (rules.width - w) / 2 : 0, y: isCentred ? (rules.height - h) / 2 : 0)
}

/// Resizes the part of a picture at a place, first along x, then along y, as Pillow does it with BILINEAR.
private func resized(_ picture: Picture, _ place: Place) -> [UInt8] {
    let channels = picture.channels
    var bytes = picture.bytes
    if place.width != picture.width || place.left != 0 || place.right != Double(picture.width) {
        let taps = Taps(picture.width, place.left, place.right, place.width)
        bytes = along(
            bytes, taps, lines: picture.height, line: picture.width * channels, wantedLine: place.width * channels,
            step: channels)
    }
    if place.height != picture.height || place.top != 0 || place.bottom != Double(picture.height) {
        let taps = Taps(picture.height, place.top, place.bottom, place.height)
        let row = place.width * channels
        bytes = along(bytes, taps, lines: 1, line: bytes.count, wantedLine: row * place.height, step: row)
    }
    return bytes
}

/// Sums the `step` values of each tap, for each of `lines` lines.
private func along(
    _ from: [UInt8], _ taps: Taps, lines: Int, line: Int, wantedLine: Int, step: Int
) -> [UInt8] {
    var to = [UInt8](repeating: 0, count: lines * wantedLine)
    var sums = [Int32](repeating: 0, count: step)
    for l in 0..<lines {
        for i in 0..<taps.first.count {
            for k in 0..<step { sums[k] = 1 << Int32(bits - 1) }
            for (tap, weight) in taps.weights[i].enumerated() {
                let start = l * line + (taps.first[i] + tap) * step
                for k in 0..<step { sums[k] += Int32(from[start + k]) * weight }
            }
            let start = l * wantedLine + i * step
            for k in 0..<step { to[start + k] = UInt8(max(0, min(255, sums[k] >> Int32(bits)))) }
        }
    }
    return to
}

private let bits = 22  // Pillow rounds the weight of a pixel to this many binary places.

/// For each of `wanted` pixels of a line, the first of the `size` pixels that it is made of, and their weights in units of 2^-22.
private struct Taps {
    var first: [Int] = []
    var weights: [[Int32]] = []

    init(_ size: Int, _ from: Double, _ to: Double, _ wanted: Int) {
        let begin = Float(from)  // Pillow reads the edges in float32
        let scale = Double(Float(to) - begin) / Double(wanted)
        let support = max(scale, 1)
        for i in 0..<wanted {
            let centre = Double(begin) + (Double(i) + 0.5) * scale
            let low = max(Int(centre - support + 0.5), 0)
            let high = min(Int(centre + support + 0.5), size)
            let near = (low..<high).map { max(1 - abs((Double($0) - centre + 0.5) * (1 / support)), 0) }
            let sum = near.reduce(0, +)
            first.append(low)
            weights.append(near.map { Int32(($0 / sum * Double(1 << bits) + 0.5).rounded(.down)) })
        }
    }
}

/// Returns the probability of each class for logits, for a model without the softmax.
public func softmax(_ logits: [Float]) -> [Float] {
    let highest = logits.max() ?? 0
    let exponentials = logits.map { exp(Double($0 - highest)) }
    let sum = exponentials.reduce(0, +)
    return exponentials.map { Float($0 / sum) }
}

/// Returns the probability of each label for logits, for a model without the sigmoid.
public func sigmoid(_ logits: [Float]) -> [Float] {
    logits.map { Float(1 / (1 + exp(-Double($0)))) }
}

/// Returns the class of each pixel of the input for class maps (classes, mapHeight, mapWidth), resized bilinearly.
public func classesOf(_ maps: [Float], mapWidth: Int, mapHeight: Int, _ rules: PictureRules) -> [UInt8] {
    let rows = Mix(mapHeight, rules.height)
    let columns = Mix(mapWidth, rules.width)
    let area = mapWidth * mapHeight
    var answer = [UInt8](repeating: 0, count: rules.width * rules.height)
    var line = [Float](repeating: 0, count: mapWidth)
    for y in 0..<rules.height {
        var best = [Float](repeating: -.infinity, count: rules.width)
        for c in 0..<maps.count / area {
            let low = c * area + rows.low[y] * mapWidth
            let high = c * area + rows.high[y] * mapWidth
            for x in 0..<mapWidth { line[x] = maps[low + x] * (1 - rows.share[y]) + maps[high + x] * rows.share[y] }
            for x in 0..<rules.width {
                let value = line[columns.low[x]] * (1 - columns.share[x]) + line[columns.high[x]] * columns.share[x]
                if value > best[x] {
                    best[x] = value
                    answer[y * rules.width + x] = UInt8(c)
                }
            }
        }
    }
    return answer
}

/// The two of `size` values that each of `wanted` values lies between, and the share of the second; corners are not aligned.
private struct Mix {
    var low: [Int] = []
    var high: [Int] = []
    var share: [Float] = []

    init(_ size: Int, _ wanted: Int) {
        for i in 0..<wanted {
            let place = max((Double(i) + 0.5) * (Double(size) / Double(wanted)) - 0.5, 0)
            let start = min(Int(place), size - 1)
            low.append(start)
            high.append(min(start + 1, size - 1))
            share.append(Float(place - Double(start)))
        }
    }
}

/// Returns the detections in scores (cells, classes) and boxes (cells, 4) in pixels of the input, the best first, in pixels of a picture of
/// `width` x `height`. Suppression is greedy, per class; boxes without an area are left out.
public func detectionsOf(
    scores: [Float], boxes: [Float], width: Int, height: Int, _ rules: PictureRules, _ limits: DetectionRules
) -> [Detection] {
    let classes = scores.count / (boxes.count / 4)
    let candidates = scores.indices
        .filter { scores[$0] > limits.floor && area(boxes, $0 / classes) != nil }
        .sorted { (scores[$0], $1) > (scores[$1], $0) }  // equal scores keep the order of the outputs
    var kept: [Int] = []
    for one in candidates {
        if kept.count == limits.limit { break }
        let isFree = kept.allSatisfy {
            $0 % classes != one % classes || iou(boxes, $0 / classes, one / classes) <= limits.overlap
        }
        if isFree { kept.append(one) }
    }
    let place = rules.rule.map { placeOf(width, height, rules, $0) }
    return kept.map { one in
        let box = (0..<4).map { inPicture(boxes[one / classes * 4 + $0], axis: $0 % 2, width, height, place) }
        return Detection(label: one % classes, score: scores[one], x1: box[0], y1: box[1], x2: box[2], y2: box[3])
    }
}

/// Returns a coordinate of the input, along x (axis 0) or y (axis 1), in pixels of the picture.
private func inPicture(_ value: Float, axis: Int, _ width: Int, _ height: Int, _ place: Place?) -> Float {
    var moved = Double(value)
    if let place {
        moved = axis == 0
            ? (moved - Double(place.x)) / (Double(place.width) / (place.right - place.left)) + place.left
            : (moved - Double(place.y)) / (Double(place.height) / (place.bottom - place.top)) + place.top
    }
    return Float(min(max(moved, 0), Double(axis == 0 ? width : height)))
}

/// Returns the area of a box, or nil for one without an area.
private func area(_ boxes: [Float], _ box: Int) -> Float? {
    let w = boxes[box * 4 + 2] - boxes[box * 4]
    let h = boxes[box * 4 + 3] - boxes[box * 4 + 1]
    return w > 0 && h > 0 ? w * h : nil
}

/// Returns the intersection over union of two boxes with an area.
private func iou(_ boxes: [Float], _ one: Int, _ other: Int) -> Float {
    let a = one * 4
    let b = other * 4
    let w = max(min(boxes[a + 2], boxes[b + 2]) - max(boxes[a], boxes[b]), 0)
    let h = max(min(boxes[a + 3], boxes[b + 3]) - max(boxes[a + 1], boxes[b + 1]), 0)
    let shared = w * h
    return shared / (area(boxes, one)! + area(boxes, other)! - shared)
}
