package celltoml

import "testing"

func TestGitDep(t *testing.T) {
	for text, want := range map[string]Repo{
		"https://example.org/a.git@v1":           {"https://example.org/a.git", "v1"},
		"git https://example.org/a@main":         {"https://example.org/a", "main"},
		"https://example.org/@scope/a@feature/x": {"https://example.org/@scope/a", "feature/x"},
		"ssh://git@example.org/ann/a.git@v1":     {"ssh://git@example.org/ann/a.git", "v1"},
		"ssh://example.org:2222/a@v1":            {"ssh://example.org:2222/a", "v1"},
		"git@example.org:ann/a.git@main":         {"git@example.org:ann/a.git", "main"},
		"git ann@host:a@0123":                    {"ann@host:a", "0123"},
		"file:///srv/a@main":                     {"file:///srv/a", "main"},
	} {
		if got, ok, err := GitDep(text); !ok || err != nil || got != want {
			t.Errorf("%q: %+v, %v, %v", text, got, ok, err)
		}
	}
	for _, text := range []string{"../mathlib", "bafyreigbtj4x7ip5legnfznufuopl4sg4knzc2cof6duas4b3q2fy6swua", "example.org", "a@b"} {
		if got, ok, err := GitDep(text); ok || err != nil {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"https://example.org/a.git", "https://example.org/a.git@", "ssh://git@example.org/a.git", "git@example.org:a.git", "git x@y",
		"http://example.org/a@v1", "git://example.org/a@v1", "ext::sh -c x.git@v1", "git ext::sh@v1", "https://ann:secret@example.org/a@v1",
		"ssh://ann:secret@example.org/a@v1", "ssh://-oProxyCommand=x/a@v1", "git -oProxyCommand=x@h:a@v1", "ssh://git@-x/a@v1",
		"git a@h:-u@v1", "https://example.org/a@-v", "https://example.org/a@a..b", "https://example.org/a@a:b", "ssh://git@h/`x`@v1",
		"https:///@v1@", "git ", "ssh://@v1", "git fd::17@v1",
	} {
		if got, ok, err := GitDep(text); !ok || err == nil {
			t.Errorf("%q is taken for %+v, %v", text, got, ok)
		}
	}
}

func FuzzGitDep(f *testing.F) {
	f.Add("git@example.org:a.git@v1")
	f.Add("ssh://git@example.org/a.git@v1")
	f.Fuzz(func(t *testing.T, text string) {
		r, ok, err := GitDep(text)
		if !ok || err != nil {
			return
		}
		if r.URL == "" || r.Ref == "" || r.URL[0] == '-' || r.Ref[0] == '-' {
			t.Fatalf("%q: %+v", text, r)
		}
	})
}
