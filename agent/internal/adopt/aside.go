package adopt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/tandem-lb/tandem/agent/internal/atomicfile"
)

// asideSuffix is what a file's name ends in while Tandem's is in its place.
const asideSuffix = ".before-tandem"

// putAside gives a hand-written file another name, with all that it is, and
// makes its own name lead to Tandem's file. At no time is the name without a
// file. It does nothing where that is so already, and overwrites nothing.
func putAside(path, ours string) error {
	if to, err := os.Readlink(path); err == nil && to == ours {
		return nil
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no plain file: make it one, so that it can be put aside", path)
	}
	if err := os.Link(path, path+asideSuffix); errors.Is(err, fs.ErrExist) {
		if !sameFile(path, path+asideSuffix) {
			return fmt.Errorf("%s exists already and is left alone: move it away", path+asideSuffix)
		}
	} else if err != nil {
		return err
	}
	temp := path + ".tandem"
	if err := os.Symlink(ours, temp); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if to, err := os.Readlink(temp); err != nil || to != ours {
		return fmt.Errorf("%s exists already and is left alone: move it away", temp)
	}
	return atomicfile.Rename(temp, path)
}

func sameFile(a, b string) bool {
	first, errFirst := os.Stat(a)
	second, errSecond := os.Stat(b)
	return errFirst == nil && errSecond == nil && os.SameFile(first, second)
}

// putBack undoes putAside. A name that leads elsewhere by now, or that somebody
// has written a file for, is left alone.
func putBack(path, ours string) error {
	to, err := os.Readlink(path)
	if err != nil || to != ours {
		if _, gone := os.Lstat(path + asideSuffix); errors.Is(gone, fs.ErrNotExist) {
			return nil // it is back already
		}
		return fmt.Errorf("%s is not what Tandem has put there: move it away, so that %s can come back", path, path+asideSuffix)
	}
	return atomicfile.Rename(path+asideSuffix, path)
}

// original is where a file's hand-written text is now.
func original(path string) string {
	if _, err := os.Lstat(path + asideSuffix); err == nil {
		if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSymlink != 0 {
			return path + asideSuffix
		}
	}
	return path
}
