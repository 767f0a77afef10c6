package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
)

const (
	// tokenPayload is about what an offer token signs, in bytes.
	tokenPayload = 150
	// echoFactor is the aim of the decision over the echo, before its signature.
	echoFactor = 1.1
)

var errNotGranted = errors.New("the node granted no offer")

// measureDecision compares RequestOffer with an echo of the same messages on the same server.
func measureDecision(ctx context.Context, s settings) (section, error) {
	var result section
	err := inWorld(ctx, s.dir, func(w *world) error {
		drop, err := w.openDrop(ctx, s.pick(1000, 100))
		if err != nil {
			return err
		}
		question := w.offer(drop)
		answer, err := w.node.RequestOffer(ctx, question)
		if err != nil {
			return err
		}
		w.echo.answer.Store(answer)
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		offers, payload := offerv1.NewOfferServiceClient(w.conn), make([]byte, tokenPayload)
		cpu, err := compareCPU(ctx, s.pick(15, 1), s.pick(5000, 100),
			contender{name: "echo", call: func(ctx context.Context) error { return w.echo.call(ctx, w.conn, w.offer(drop)) }},
			contender{name: "decision", call: func(ctx context.Context) error { return granted(offers.RequestOffer(ctx, w.offer(drop))) }},
			contender{name: "handler", call: func(ctx context.Context) error { return granted(w.node.RequestOffer(ctx, w.offer(drop))) }},
			contender{name: "signature", call: func(context.Context) error { ed25519.Sign(key, payload); return nil }},
		)
		if err != nil {
			return err
		}
		result = decisionSection(cpu, proto.Size(question), proto.Size(answer))
		return nil
	})
	return result, err
}

// granted checks an answer, so that a refusal is not measured as a decision.
func granted(answer *offerv1.RequestOfferResponse, err error) error {
	if err == nil && answer.GetGranted() == nil {
		err = errNotGranted
	}
	return err
}

func decisionSection(cpu [][]time.Duration, requestBytes, answerBytes int) section {
	echo, decision, handler, signature := cpu[0], cpu[1], cpu[2], cpu[3]
	t := table{header: []string{"CPU per call", "median µs", "lowest to highest round", "ratio to echo"}}
	t.add("echo RPC, same sizes and interceptors", micros(median(echo)), spread(echo, micros), "1.00")
	t.add("RequestOffer: decision and signed token", micros(median(decision)), spread(decision, micros), times(ratio(decision, echo)))
	t.add("the same without a transport", micros(median(handler)), spread(handler, micros), times(ratio(handler, echo)))
	t.add("one Ed25519 signature", micros(median(signature)), spread(signature, micros), times(ratio(signature, echo)))
	aims := make([]time.Duration, len(echo))
	for i := range aims {
		aims[i] = time.Duration(echoFactor*float64(echo[i])) + signature[i]
	}
	aim := median(aims)
	return section{
		tables: []table{t},
		aim: fmt.Sprintf("Aim: %.1f x the echo and one signature, %s µs: %s. %.2f x the aim in the median round.", echoFactor, micros(aim),
			verdict(median(decision), aim, micros, "µs"), ratio(decision, aims)),
		cannot: fmt.Sprintf("latency, or the cost under contention for the drop. Client and server share one process, so the client's half is in "+
			"every RPC row and flatters the ratio; both are %d callers on one loopback connection, %d bytes in and %d out.", callers, requestBytes, answerBytes),
	}
}
