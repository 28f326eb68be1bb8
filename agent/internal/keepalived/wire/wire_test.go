package wire

import (
	"net/netip"
	"reflect"
	"testing"
	"time"
)

// Whatever is told of a router is news when it changes, but for when somebody spoke last.
func TestEachChangeIsNews(t *testing.T) {
	kind := reflect.TypeFor[Heard]()
	for n := range kind.NumField() {
		var changed Heard
		set(t, reflect.ValueOf(&changed).Elem().Field(n))
		name := kind.Field(n).Name
		if got, want := changed.same(&Heard{}), name == "Spoke"; got != want {
			t.Errorf("another %s is no news: %v, want %v", name, got, want)
		}
		if !changed.same(&changed) {
			t.Errorf("the same %s is news", name)
		}
	}
}

// set has a value differ from that of its type that is zero.
func set(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(start))
		return
	case netip.Addr:
		v.Set(reflect.ValueOf(vip))
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint8:
		v.SetUint(1)
	case reflect.Array:
		set(t, v.Index(0))
	case reflect.Slice:
		v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
	case reflect.Struct:
		set(t, v.Field(0))
	default:
		t.Fatalf("no value of %s is known", v.Type())
	}
}
