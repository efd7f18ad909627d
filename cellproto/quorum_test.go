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
