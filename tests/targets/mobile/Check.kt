// Carries out the cases of a folder, as tests/targets/test_mobile_code.py writes them, with Contract.kt.

import edgedistill.*
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

fun floats(file: File): FloatArray {
    val buffer = ByteBuffer.wrap(file.readBytes()).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
    return FloatArray(buffer.remaining()).also(buffer::get)
}

fun write(file: File, values: FloatArray) {
    val buffer = ByteBuffer.allocate(values.size * 4).order(ByteOrder.LITTLE_ENDIAN)
    buffer.asFloatBuffer().put(values)
    file.writeBytes(buffer.array())
}

fun main(arguments: Array<String>) {
    for (folder in File(arguments[0]).listFiles()!!.filter { it.isDirectory }) {
        val (width, height, channels, wide, high) = File(folder, "sizes").readText().trim().split(" ").map { it.toInt() }
        val (rule, padding, mean, std) = File(folder, "rules").readText().trim().split(" ")
        val values = { text: String -> if (text == "none") null else text.split(",").map { it.toFloat() }.toFloatArray() }
        val rules = PictureRules(
            wide, high, if (rule == "none") null else rule, padding.toInt(), channels, 255f, values(mean), values(std),
        )
        val picture = Picture(width, height, channels, File(folder, "picture").readBytes())
        File(folder, "bytes").writeBytes(bytesOf(picture, rules))
        write(File(folder, "floats"), floatsOf(picture, rules))
        write(File(folder, "softmax"), softmax(floats(File(folder, "logits"))))
        write(File(folder, "sigmoid"), sigmoid(floats(File(folder, "logits"))))
        File(folder, "mask").writeBytes(classesOf(floats(File(folder, "maps")), 13, 11, rules))
        val found = detectionsOf(
            floats(File(folder, "scores")), floats(File(folder, "boxes")), width, height, rules, Contract.limits,
        )
        write(
            File(folder, "detections"),
            found.flatMap { listOf(it.label.toFloat(), it.score, it.x1, it.y1, it.x2, it.y2) }.toFloatArray(),
        )
    }
    File(arguments[0], "classes").writeText(Contract.classes.joinToString("\n"))
}
