// Package patch is the form of a signed patch: what turns one version of a program into another, and
// who says so. It owns the bytes of the header, the limits, and the text forms of the keys that sign.
// The delta after the header is for cellproto/patch/delta, and which patches a cell has, and when they
// are applied, for node/patcher.
//
// A patch is a Zstandard file (RFC 8878): a skippable frame with the signed header, then one frame
// that has the old program as its dictionary. So zstd -d --patch-from=OLD reads it as it is, without
// the signature. The header names both programs and the delta by size and BLAKE3, and the signature is
// checked before the delta is looked at: what nobody has signed never reaches the decompressor.
package patch
