package celltoml

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func TestMarshalGivesTheSame(t *testing.T) {
	files, err := filepath.Glob("testdata/good/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want, err := Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		text := want.Marshal()
		got, err := Parse(text)
		if err != nil {
			t.Errorf("%s: %v\n%s", path, err, text)
			continue
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: \n%+v\nwant\n%+v\n%s", path, got, want, text)
		}
	}
}
