// Carries out the cases of a folder, as tests/targets/test_mobile_code.py writes them, with Contract.swift.

import Foundation

func bytes(_ path: String) -> [UInt8] { [UInt8](FileManager.default.contents(atPath: path)!) }

func floats(_ path: String) -> [Float] {
    bytes(path).withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
}

func write(_ path: String, _ values: [Float]) {
    values.withUnsafeBytes { _ = FileManager.default.createFile(atPath: path, contents: Data($0)) }
}

func words(_ path: String) -> [String] {
    String(decoding: bytes(path), as: UTF8.self).split(whereSeparator: \.isWhitespace).map(String.init)
}

let top = CommandLine.arguments[1]
for name in try FileManager.default.contentsOfDirectory(atPath: top) where name.hasPrefix("case") {
    let folder = "\(top)/\(name)/"
    let sizes = words(folder + "sizes").map { Int($0)! }
    let rule = words(folder + "rules")
    let values = { (text: String) in text == "none" ? nil : text.split(separator: ",").map { Float($0)! } }
    let rules = PictureRules(
        width: sizes[3], height: sizes[4], rule: ResizeRule(rawValue: rule[0]), padding: UInt8(rule[1])!, channels: sizes[2],
        divideBy: 255, mean: values(rule[2]), std: values(rule[3]))
    let picture = Picture(width: sizes[0], height: sizes[1], channels: sizes[2], bytes: bytes(folder + "picture"))
    _ = FileManager.default.createFile(atPath: folder + "bytes", contents: Data(try bytesOf(picture, rules)))
    write(folder + "floats", try floatsOf(picture, rules))
    write(folder + "softmax", softmax(floats(folder + "logits")))
    write(folder + "sigmoid", sigmoid(floats(folder + "logits")))
    let mask = classesOf(floats(folder + "maps"), mapWidth: 13, mapHeight: 11, rules)
    _ = FileManager.default.createFile(atPath: folder + "mask", contents: Data(mask))
    let found = detectionsOf(
        scores: floats(folder + "scores"), boxes: floats(folder + "boxes"), width: sizes[0], height: sizes[1], rules,
        Contract.limits)
    write(folder + "detections", found.flatMap { [Float($0.label), $0.score, $0.x1, $0.y1, $0.x2, $0.y2] })
}
let classes = Contract.classes.joined(separator: "\n")
_ = FileManager.default.createFile(atPath: top + "/classes", contents: Data(classes.utf8))
