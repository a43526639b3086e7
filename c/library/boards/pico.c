/* Raspberry Pi Pico and Pico 2: prints the words that an I2S microphone picks up, and lights the LED for a second at
 * the first of them. With the Pico SDK 2. A Pico has no floating-point unit: export the model with --fixed_point.
 *
 * A microphone such as INMP441: SCK at GP10, WS at GP11, SD at GP12, L/R at GND, VDD at 3.3 V. The LED of a Pico W is
 * not at a pin: leave LED out. */
#include <stdio.h>

#include "capture.h"
#include "hardware/clocks.h"
#include "hardware/dma.h"
#include "hardware/pio.h"
#include "hardware/sync.h"
#include "hardware/watchdog.h"
#include "kws_detect.h"
#include "pico/stdlib.h"

#define RATE 16000 /* of the microphone; 48000 for one that has no lower rate, with FRAMES 960 */
#define FRAMES 320 /* in half the buffer, 20 ms; what takes longer than that loses samples */
#define SAMPLES (FRAMES * KWS_SAMPLE_RATE / RATE)
#define GAIN (8 * CAPTURE_UNITY) /* so that speech is as loud as in the recordings of training */
#define CLOCK_PIN 10             /* and WS at the next one */
#define DATA_PIN 12
#define LED PICO_DEFAULT_LED_PIN

#if KWS_SAMPLE_RATE != 16000
#error capture.c gives 16 kHz
#endif

/* I2S, the left slot: 64 bits a frame, two instructions each. The side-set is WS and SCK. */
#define FRAME_INSTRUCTIONS 128
static const uint16_t i2s[] = {
    0xe03d, /*        set x, 29        side 0b00   WS falls one bit before the sample begins */
    0xa842, /*        nop              side 0b01 */
    0xa042, /*        nop              side 0b00 */
    0x4801, /* mine:  in pins, 1       side 0b01 */
    0x0043, /*        jmp x--, mine    side 0b00 */
    0x4801, /*        in pins, 1       side 0b01 */
    0xf03d, /*        set x, 29        side 0b10   and rises one before its end */
    0x5801, /*        in pins, 1       side 0b11   the last of 32 bits */
    0xb042, /*        nop              side 0b10 */
    0xb842, /* other: nop              side 0b11 */
    0x1049, /*        jmp x--, other   side 0b10 */
    0xb842, /*        nop              side 0b11 */
};

static int32_t buffer[2][FRAMES];
static capture_halves halves;
static uint channels[2]; /* of DMA, one for each half, which start each other */

static void on_half(void) {
    for (int half = 0; half < 2; half++) {
        if (!dma_channel_get_irq0_status(channels[half])) continue;
        dma_channel_acknowledge_irq0(channels[half]);
        dma_channel_set_write_addr(channels[half], buffer[half], false); /* for the next time */
        halves.full++;
    }
}

static void start_microphone(void) {
    const pio_program_t program = {.instructions = i2s, .length = sizeof i2s / sizeof *i2s, .origin = -1};
    const uint first = pio_add_program(pio0, &program), machine = pio_claim_unused_sm(pio0, true);
    pio_sm_config config = pio_get_default_sm_config();
    sm_config_set_wrap(&config, first, first + program.length - 1u);
    sm_config_set_sideset(&config, 2, false, false);
    sm_config_set_sideset_pins(&config, CLOCK_PIN);
    sm_config_set_in_pins(&config, DATA_PIN);
    sm_config_set_in_shift(&config, false, true, 32);
    sm_config_set_clkdiv(&config, (float)clock_get_hz(clk_sys) / (RATE * FRAME_INSTRUCTIONS));
    for (uint pin = CLOCK_PIN; pin < CLOCK_PIN + 2; pin++) pio_gpio_init(pio0, pin);
    pio_gpio_init(pio0, DATA_PIN);
    pio_sm_set_consecutive_pindirs(pio0, machine, CLOCK_PIN, 2, true);
    pio_sm_set_consecutive_pindirs(pio0, machine, DATA_PIN, 1, false);
    pio_sm_init(pio0, machine, first, &config);
    for (int half = 0; half < 2; half++) channels[half] = (uint)dma_claim_unused_channel(true);
    for (int half = 0; half < 2; half++) {
        dma_channel_config transfer = dma_channel_get_default_config(channels[half]);
        channel_config_set_read_increment(&transfer, false);
        channel_config_set_write_increment(&transfer, true);
        channel_config_set_dreq(&transfer, pio_get_dreq(pio0, machine, false));
        channel_config_set_chain_to(&transfer, channels[1 - half]);
        dma_channel_set_irq0_enabled(channels[half], true);
        dma_channel_configure(channels[half], &transfer, buffer[half], &pio0->rxf[machine], FRAMES, false);
    }
    irq_set_exclusive_handler(DMA_IRQ_0, on_half);
    irq_set_enabled(DMA_IRQ_0, true);
    dma_channel_start(channels[0]);
    pio_sm_set_enabled(pio0, machine, true);
}

int main(void) {
    static capture from_microphone;
    static kws_detector detector;
    static int16_t samples[SAMPLES + 1];
    kws_detection found;
    int32_t light = 0;
    uint32_t overruns = 0;
    stdio_init_all();
    gpio_init(LED);
    gpio_set_dir(LED, GPIO_OUT);
    capture_start(&from_microphone, CAPTURE_24_IN_32, RATE, 1, GAIN);
    kws_detect_start(&detector, KWS_NORMAL);
    start_microphone();
    watchdog_enable(1000, true);
    for (;;) {
        /* Without interrupts, so that none comes between the check and WFI, which it wakes all the same. */
        const uint32_t enabled = save_and_disable_interrupts();
        if (halves.full == halves.taken) __wfi();
        restore_interrupts(enabled);
        watchdog_update();
        if (halves.full == halves.taken) continue; /* it was another interrupt */
        const int32_t count = capture_samples(&from_microphone, buffer[halves.taken % 2], FRAMES, samples);
        const uint32_t lost = capture_taken(&halves);
        if (lost) {
            kws_gap(&detector, lost * SAMPLES);
            printf("%lu overruns\n", (unsigned long)++overruns);
            continue;
        }
        kws_push(&detector, samples, count);
        light -= light < count ? light : count;
        while (kws_next(&detector, &found) == KWS_DETECTED) {
            const uint64_t milliseconds = found.sample / (KWS_SAMPLE_RATE / 1000);
            printf("%lu ms  %s\n", (unsigned long)milliseconds, kws_labels[found.label]);
            if (found.label == KWS_FIRST_WORD) light = KWS_SAMPLE_RATE;
        }
        gpio_put(LED, light > 0);
    }
}
