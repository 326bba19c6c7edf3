package module

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// cut shortens a text to n characters.
func cut(s string, n int) string {
	runes := []rune(s)
	if len(runes) <= n {
		return s
	}
	return string(runes[:n-1]) + "…"
}

// orDash returns what a table shows for a word that may be missing.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return visibleName(s)
}

// age returns how long ago a time in Unix milliseconds was, as 12s, 3m12s, 5h7m or 12d3h. Clocks may differ: what is to come is 0s.
func age(now time.Time, ms int64) string {
	d := max(now.Sub(time.UnixMilli(ms)), 0)
	days, hours, minutes, seconds := int(d.Hours())/24, int(d.Hours())%24, int(d.Minutes())%60, int(d.Seconds())%60
	switch {
	case days > 0:
		return fmt.Sprintf("%dd%dh", days, hours)
	case hours > 0:
		return fmt.Sprintf("%dh%dm", hours, minutes)
	case minutes > 0:
		return fmt.Sprintf("%dm%ds", minutes, seconds)
	default:
		return fmt.Sprintf("%ds", seconds)
	}
}

// counted returns a number with its noun.
func counted(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// table aligns rows of visible cells.
type table struct{ rows strings.Builder }

func newTable(head ...any) *table {
	t := new(table)
	t.row(head...)
	return t
}

func (t *table) row(cells ...any) {
	for i, cell := range cells {
		if i > 0 {
			t.rows.WriteByte('\t')
		}
		fmt.Fprint(&t.rows, cell)
	}
	t.rows.WriteByte('\n')
}

func (t *table) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if _, err := io.WriteString(w, t.rows.String()); err != nil {
		return err
	}
	return w.Flush()
}
