package presence

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
)

// The first byte of a payload tells what it is. Other kinds on these channels belong to others.
const (
	kindDiff   = 'p' // on a room's channel: connections changed
	kindStatus = 's' // on the channel of the users: a user's explicit status
	kindReset  = 'r' // on the channel of the users: an instance found that the store lost its data, so look after yours
)

var errMalformed = errors.New("presence: malformed payload")

// diff is one step of a room, as the scripts publish it:
//
//	p<prev> <seq> <batch>\n
//
// and for each change one of
//
//	+<length of id> <length of value>\n<id><value>
//	-<length of id> <length of reason>\n<id><reason>
type diff struct {
	prev, seq uint64
	batch     uint64 // the number that the writing instance gave it; 0 from a reaper
	changes   []change
}

func decodeDiff(payload []byte) (diff, error) {
	var d diff
	if len(payload) == 0 || payload[0] != kindDiff {
		return d, errMalformed
	}
	head, rest, ok := bytes.Cut(payload[1:], []byte{'\n'})
	numbers := bytes.Split(head, []byte{' '})
	if !ok || len(numbers) != 3 {
		return d, errMalformed
	}
	for i, to := range []*uint64{&d.prev, &d.seq, &d.batch} {
		n, err := strconv.ParseUint(string(numbers[i]), 10, 64)
		if err != nil {
			return d, errMalformed
		}
		*to = n
	}
	for len(rest) > 0 {
		op := rest[0]
		head, tail, ok := bytes.Cut(rest[1:], []byte{'\n'})
		idText, textText, ok2 := bytes.Cut(head, []byte{' '})
		idLen, err1 := strconv.Atoi(string(idText))
		textLen, err2 := strconv.Atoi(string(textText))
		if !ok || !ok2 || err1 != nil || err2 != nil || idLen < 0 || textLen < 0 || idLen > len(tail) || textLen > len(tail)-idLen {
			return d, errMalformed
		}
		c := change{id: string(tail[:idLen])}
		text := string(tail[idLen : idLen+textLen])
		switch op {
		case '+':
			e, err := decodeEntry(text)
			if err != nil {
				return d, err
			}
			c.entry = e
		case '-':
			c.gone, c.reason = true, Reason(text)
		default:
			return d, errMalformed
		}
		d.changes = append(d.changes, c)
		rest = tail[idLen+textLen:]
	}
	return d, nil
}

// content is what an entry says, as it is stored behind its version and its since. The state comes last: it is the only one
// that may hold a newline.
func (e entry) content() string {
	return e.user + "\n" + e.status + "\n" + e.device + "\n" + e.state
}

// decodeEntry reads a stored value: ver \n since \n content.
func decodeEntry(value string) (entry, error) {
	f := strings.SplitN(value, "\n", 6)
	if len(f) != 6 || f[2] == "" {
		return entry{}, errMalformed
	}
	ver, err1 := strconv.ParseUint(f[0], 10, 64)
	since, err2 := strconv.ParseInt(f[1], 10, 64)
	if err1 != nil || err2 != nil {
		return entry{}, errMalformed
	}
	return entry{ver: ver, since: since, user: f[2], status: f[3], device: f[4], state: f[5]}, nil
}

// decodeStatus reads s<ver>\n<user>\n<status>.
func decodeStatus(payload []byte) (user string, ver uint64, status string, err error) {
	f := strings.SplitN(string(payload), "\n", 3)
	if len(f) != 3 || len(f[0]) < 2 {
		return "", 0, "", errMalformed
	}
	ver, err = strconv.ParseUint(f[0][1:], 10, 64)
	return f[1], ver, f[2], err
}
