package cell

import (
	"bytes"
	"encoding/json"
	"reflect"
	"sync"
)

// unmarshalOpen is json.Unmarshal into a type that leaves values open: their numbers become what they are when they come
// in CBOR, integers where they are whole. As float64 those past 2^53 would be others.
func unmarshalOpen(data []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(into); err != nil {
		return err
	}
	return setNumbers(reflect.ValueOf(into).Elem())
}

// setNumbers replaces each json.Number in v. What marshals itself has read itself, too.
func setNumbers(v reflect.Value) error {
	switch t := v.Type(); {
	case !opens(t):
		return nil
	case t.Kind() == reflect.Interface:
		plain, err := plainNumbers(v.Interface())
		if err == nil && plain != nil {
			v.Set(reflect.ValueOf(plain))
		}
		return err
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			return setNumbers(v.Elem())
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if err := setNumbers(v.Index(i)); err != nil {
				return err
			}
		}
	case reflect.Map:
		for iter := v.MapRange(); iter.Next(); {
			value := reflect.New(v.Type().Elem()).Elem() // that in the map cannot be set
			value.Set(iter.Value())
			if err := setNumbers(value); err != nil {
				return err
			}
			v.SetMapIndex(iter.Key(), value)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() || f.Anonymous && f.Type.Kind() == reflect.Struct {
				if err := setNumbers(v.Field(i)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

var openTypes sync.Map // bool by reflect.Type: what opens has found

// opens says whether values of a type have others within them that may be of any type.
func opens(t reflect.Type) bool {
	if known, ok := openTypes.Load(t); ok {
		return known.(bool)
	}
	open := opensBut(t, map[reflect.Type]bool{})
	openTypes.Store(t, open)
	return open
}

func opensBut(t reflect.Type, seen map[reflect.Type]bool) bool {
	if seen[t] || custom(t) {
		return false
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Interface:
		return true
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		return opensBut(t.Elem(), seen)
	case reflect.Struct:
		for i := range t.NumField() {
			if opensBut(t.Field(i).Type, seen) {
				return true
			}
		}
	}
	return false
}
