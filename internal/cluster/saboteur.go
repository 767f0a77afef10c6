package cluster

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/internal/wan"
	"github.com/rimlight/rimlight/router"
)

// saboteur cuts links and kills nodes for drills. It implements router.Saboteur for all routers of the cluster.
type saboteur struct {
	mu      sync.Mutex
	regions map[string]*victim
}

// victim is a region that can be broken.
type victim struct {
	links wan.Switch // between it, the routers and the centre; with Split, between it and the routers
	child *child     // nil: it shares the cluster's process

	heal   *time.Timer // of the links
	faults map[regionv1.FaultKind]*regionv1.Fault
}

func newSaboteur(regions []string) *saboteur {
	s := &saboteur{regions: map[string]*victim{}}
	for _, name := range regions {
		s.regions[name] = &victim{faults: map[regionv1.FaultKind]*regionv1.Fault{}}
	}
	return s
}

// links is the switch of a region's links; nil of other places, whose links are never cut.
func (s *saboteur) links(place string) *wan.Switch {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.regions[place]; v != nil {
		return &v.links
	}
	return nil
}

// own tells that a region's node has a process of its own.
func (s *saboteur) own(region string, node *child) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.regions[region].child = node
}

// Partition implements router.Saboteur.
func (s *saboteur) Partition(region string, during time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.regions[region]
	if v == nil {
		return fmt.Errorf("partitioning %s: %w", region, router.ErrFaultNotPossible)
	}
	if v.heal != nil {
		v.heal.Stop()
	}
	v.links.Cut()
	v.heal = time.AfterFunc(during, v.links.Heal)
	v.note(regionv1.FaultKind_FAULT_KIND_PARTITION, during)
	return nil
}

// Kill implements router.Saboteur.
func (s *saboteur) Kill(region string, during time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.regions[region]
	if v == nil || v.child == nil {
		return fmt.Errorf("killing %s: %w", region, router.ErrFaultNotPossible)
	}
	v.child.kill(during)
	v.note(regionv1.FaultKind_FAULT_KIND_KILL, during)
	return nil
}

func (v *victim) note(kind regionv1.FaultKind, during time.Duration) {
	v.faults[kind] = &regionv1.Fault{Kind: kind, ExpireTime: timestamppb.New(time.Now().Add(during))}
}

// Active implements router.Saboteur.
func (s *saboteur) Active(region string) []*regionv1.Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.regions[region]
	if v == nil {
		return nil
	}
	var list []*regionv1.Fault
	for kind, f := range v.faults {
		if !time.Now().Before(f.GetExpireTime().AsTime()) {
			delete(v.faults, kind)
			continue
		}
		list = append(list, f)
	}
	slices.SortFunc(list, func(a, b *regionv1.Fault) int { return cmp.Compare(a.GetKind(), b.GetKind()) })
	return list
}

// healAll lets everything through: what is stopping must be able to say goodbye.
func (s *saboteur) healAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.regions {
		if v.heal != nil {
			v.heal.Stop()
		}
		v.links.Heal()
	}
}
