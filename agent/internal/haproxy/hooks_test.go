package haproxy

import (
	"context"
	"strings"
	"testing"
	"time"
)

func TestUntilServing(t *testing.T) {
	r := newRig(t)
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := UntilServing(short, r.dir+"/run"); err == nil || !strings.Contains(err.Error(), "haproxy does not serve") {
		t.Errorf("without HAProxy: %v", err)
	}
	r.apply(r.config())
	if err := UntilServing(t.Context(), r.dir+"/run"); err != nil {
		t.Errorf("with HAProxy: %v", err)
	}
}
