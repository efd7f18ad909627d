package ctl

import (
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestGiveChange(t *testing.T) {
	yes, cpu, until, list := true, 12.5, time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC), []string{"a"}
	want := GiveChange{On: &yes, CPU: &cpu, Until: &until, Allow: &list}
	q, err := want.Query()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseGive(q); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v became %+v, %v", want, got, err)
	}
	for _, text := range []string{
		"", "[]", `{"on":1}`, `{"what":1}`, `{} {}`, `{"on":true}x`, `{"until":"soon"}`, `{"allow":["` + strings.Repeat("x", MaxGiveChange) + `"]}`,
	} {
		if got, err := ParseGive(url.Values{"change": {text}}); err == nil {
			t.Errorf("%.40q is taken: %+v", text, got)
		}
	}
	long := []string{strings.Repeat("x", MaxGiveChange)}
	if _, err := (&GiveChange{Deny: &long}).Query(); err == nil {
		t.Error("what is too long is sent")
	}
}

func FuzzGiveChange(f *testing.F) {
	f.Add(`{"on":true,"cpu_percent":10,"until":"2027-01-01T00:00:00Z","allow":["a"],"hosts":3}`)
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseGive(url.Values{"change": {text}})
		if err != nil {
			return
		}
		q, err := c.Query()
		if err != nil {
			return // its own form is longer
		}
		if again, err := ParseGive(q); err != nil || !reflect.DeepEqual(again, c) {
			t.Errorf("%+v became %+v, %v", c, again, err)
		}
	})
}
