package celltoml

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Marshal gives c as a cell.toml from which Parse makes the same. What has its default is left out.
func (c *Config) Marshal() []byte {
	var b strings.Builder
	plain, table := Default(), ""
	for i := range keys {
		k := &keys[i]
		v := reflect.ValueOf(k.at(c)).Elem()
		if reflect.DeepEqual(v.Interface(), reflect.ValueOf(k.at(plain)).Elem().Interface()) {
			continue
		}
		name, last := k.path, ""
		if k.kind != names {
			name, last, _ = strings.Cut(k.path, ".")
		}
		if name != table {
			fmt.Fprintf(&b, "\n[%s]\n", name)
			table = name
		}
		if m, ok := v.Interface().(map[string]string); ok {
			for _, entry := range slices.Sorted(maps.Keys(m)) {
				fmt.Fprintf(&b, "%s = %s\n", tomlText(entry), tomlText(m[entry]))
			}
			continue
		}
		fmt.Fprintf(&b, "%s = %s\n", last, tomlValue(v))
	}
	return []byte(strings.TrimPrefix(b.String(), "\n"))
}

func tomlValue(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case time.Duration:
		return tomlText(x.String())
	case []string:
		quoted := make([]string, len(x))
		for i, s := range x {
			quoted[i] = tomlText(s)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	case float64:
		return strconv.FormatFloat(x, 'f', -1, 64)
	}
	if v.Kind() == reflect.String {
		return tomlText(v.String())
	}
	return fmt.Sprint(v.Interface())
}

// tomlText gives a text as TOML's basic string.
func tomlText(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
