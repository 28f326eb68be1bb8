package crash

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Every point stands in the list, and in the code exactly once or more.
func TestEveryPointIsUsed(t *testing.T) {
	text, err := os.ReadFile("crash.go")
	if err != nil {
		t.Fatal(err)
	}
	declared := regexp.MustCompile(`(?m)^\t(\w+) +Point = "(.+)"$`).FindAllSubmatch(text, -1)
	if len(declared) != len(All()) {
		t.Errorf("%d points are declared and %d are in All", len(declared), len(All()))
	}
	var code strings.Builder
	if err := filepath.WalkDir("..", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		code.Write(text)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, d := range declared {
		if !slices.Contains(All(), Point(d[2])) {
			t.Errorf("%s is not in All", d[1])
		}
		if !strings.Contains(code.String(), "crash."+string(d[1])+".Pass()") {
			t.Errorf("nothing passes %s", d[1])
		}
	}
}
