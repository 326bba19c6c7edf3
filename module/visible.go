package module

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Clients choose their names, states and data. None of it may reach the terminal of an operator as anything but visible characters: neither by
// a command nor by curl.

// visibleName returns a name as one word: as it is, or quoted if it has spaces or what can't be seen, or could be taken for something else.
func visibleName(s string) string {
	odd := func(r rune) bool {
		return !unicode.IsPrint(r) || r == ' ' || r == '"' || r == '\\' || r == unicode.ReplacementChar
	}
	if s == "" || s == "-" || strings.ContainsFunc(s, odd) {
		return strconv.Quote(s)
	}
	return s
}

// visibleText returns a sentence with spaces for what can't be seen.
func visibleText(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}

// visibleLine returns the same JSON on one line, with escapes for what can't be seen.
func visibleLine(doc []byte) []byte {
	line := make([]byte, 0, len(doc)+1)
	for _, r := range string(doc) {
		switch {
		case unicode.IsPrint(r):
			line = utf8.AppendRune(line, r)
		case r == '\n' || r == '\r' || r == '\t':
			line = append(line, ' ') // it is between tokens: in a string it would be escaped
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			line = fmt.Appendf(line, `\u%04x\u%04x`, high, low)
		default:
			line = fmt.Appendf(line, `\u%04x`, r)
		}
	}
	return line
}

// visibleJSON is visibleLine without spaces between tokens, for what may be no JSON.
func visibleJSON(doc []byte) (string, error) {
	var compact bytes.Buffer
	if err := json.Compact(&compact, doc); err != nil {
		return "", err
	}
	return string(visibleLine(compact.Bytes())), nil
}

// visibleField is visibleJSON for a part of an answer, which is JSON as the answer is, or isn't there.
func visibleField(raw json.RawMessage) string {
	text, err := visibleJSON(raw)
	if err != nil {
		return "-"
	}
	return text
}
