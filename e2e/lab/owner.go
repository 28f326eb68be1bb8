package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// recordDir holds one file a lab. Its owner keeps the file locked, so that a
// lock that can be taken proves the owner dead, whatever process has its id now.
const recordDir = "/run/tandem-lab"

// ownerRecord marks a lab as owned by this process.
type ownerRecord struct {
	lab  string
	file *os.File
}

// newOwnerRecord chooses a free lab name and takes it.
func newOwnerRecord() (*ownerRecord, error) {
	if err := os.MkdirAll(recordDir, 0o755); err != nil {
		return nil, err
	}
	var random [2]byte
	_, _ = rand.Read(random[:]) // never fails, says its documentation
	name := fmt.Sprintf("tandem-%d-%s", os.Getpid(), hex.EncodeToString(random[:]))
	// The record gets its name when it is locked already, so that no Sweep can
	// take it for one of a dead owner.
	file, err := os.CreateTemp(recordDir, ".new-*")
	if err != nil {
		return nil, err
	}
	if err := errors.Join(
		syscall.Flock(int(file.Fd()), syscall.LOCK_EX),
		os.Rename(file.Name(), filepath.Join(recordDir, name)),
	); err != nil {
		return nil, errors.Join(fmt.Errorf("take lab name %s: %w", name, err), os.Remove(file.Name()), file.Close())
	}
	return &ownerRecord{lab: name, file: file}, nil
}

func (r *ownerRecord) release() error {
	return errors.Join(os.Remove(filepath.Join(recordDir, r.lab)), r.file.Close())
}

// Sweep removes the namespaces and control groups of labs whose owner is dead. Their processes
// ended with the owner.
func Sweep(ctx context.Context) error {
	records, err := filepath.Glob(filepath.Join(recordDir, "tandem-*"))
	if err != nil {
		return err
	}
	for _, record := range records {
		if err := sweepRecord(ctx, record); err != nil {
			return err
		}
	}
	return nil
}

func sweepRecord(ctx context.Context, record string) error {
	file, err := os.Open(record)
	if errors.Is(err, os.ErrNotExist) {
		return nil // its owner, or another sweep, was faster
	}
	if err != nil {
		return err
	}
	defer file.Close()
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil // the owner lives
	}
	namespaces, err := filepath.Glob(filepath.Join("/run/netns", filepath.Base(record)+"-*"))
	if err != nil {
		return err
	}
	for _, path := range namespaces {
		_, err := output(ctx, "ip", "netns", "delete", filepath.Base(path))
		if err != nil && !strings.Contains(err.Error(), "No such file") {
			return err
		}
	}
	if err := removeCgroups(filepath.Base(record)); err != nil {
		return err
	}
	if err := os.Remove(record); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
