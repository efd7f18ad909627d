package cellproto

import "testing"

func TestParseQuorum(t *testing.T) {
	for s, want := range map[string]Quorum{"2of2": {2, 2}, "2of3": {2, 3}, "3of5": {3, 5}, "8of8": {8, 8}} {
		q, err := ParseQuorum(s)
		if err != nil || q != want || q.String() != s {
			t.Errorf("%s: %v, %v", s, q, err)
		}
	}
	for _, s := range []string{"", "of", "2", "2of", "of3", "1of1", "1of2", "2of4", "4of3", "5of9", "0of3", "-2of3", "+2of3", "2of3of4", " 2of3", "2 of 3", "02of3", "999of999", "２of3"} {
		if q, err := ParseQuorum(s); KindOf(err) != BadInput {
			t.Errorf("%q gives %v, %v", s, q, err)
		}
	}
}

func FuzzParseQuorum(f *testing.F) {
	for _, s := range []string{"2of3", "8of8", "1of1", "of", "2of3of4", "99of99"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		q, err := ParseQuorum(s)
		if err != nil {
			if KindOf(err) != BadInput || HintOf(err) == "" {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		if q.String() != s || q.Agree < 2 || q.Agree > q.Ask || 2*q.Agree <= q.Ask || q.Ask > MaxProbed {
			t.Errorf("%q gives %+v", s, q)
		}
	})
}
