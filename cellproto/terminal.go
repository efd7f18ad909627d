package cellproto

import "unicode"

// Unprintable says that a character in text from elsewhere could drive a terminal or deceive who reads
// it: a control character (C0 but newline and tab, DEL, C1), one that turns the direction of writing,
// or a line or paragraph separator.
func Unprintable(r rune) bool {
	return unicode.IsControl(r) && r != '\n' && r != '\t' || unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp)
}
