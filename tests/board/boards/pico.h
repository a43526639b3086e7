/* Stands in for the Pico SDK: what pico.c uses of it, and DMA whose channels start each other. */
#ifndef PICO_H
#define PICO_H

#include "played.h"

typedef unsigned int uint;
#define PICO_DEFAULT_LED_PIN 25
enum { GPIO_OUT = 1, clk_sys = 5, DMA_IRQ_0 = 11 };

typedef struct {
    uint32_t rxf[4];
} pio_hw_t;
typedef pio_hw_t *PIO;
static pio_hw_t stand_in_pio;
#define pio0 (&stand_in_pio)
typedef struct {
    const uint16_t *instructions;
    uint8_t length;
    int8_t origin;
} pio_program_t;
typedef struct {
    uint first, last, sideset, clock, data;
    bool shift_right, autopush;
    float divider;
} pio_sm_config;
typedef struct {
    bool read_increment, write_increment;
    uint request, chain_to;
} dma_channel_config;

enum { STAND_IN_MACHINE = 2, STAND_IN_REQUEST = 6, STAND_IN_FIRST = 20 };
static struct {
    dma_channel_config config;
    unsigned char *from, *to;
    uint32_t count;
    bool interrupt, done;
} stand_in_dma[12];
static int stand_in_claimed = 3, stand_in_channel = -1;
static bool stand_in_running = false, stand_in_enabled = false;
static uint32_t stand_in_outputs = 0;
static void (*stand_in_handler)(void);

static inline bool stdio_init_all(void) { return true; }
static inline void gpio_init(uint pin) { (void)pin; }
static inline void gpio_set_dir(uint pin, bool out) { stand_in_outputs |= (uint32_t)out << pin; }
static inline void gpio_put(uint pin, bool level) {
    REQUIRE(stand_in_outputs & 1u << pin && pin == PICO_DEFAULT_LED_PIN);
    show(level);
}
static inline uint32_t clock_get_hz(int clock) { return clock == clk_sys ? 125000000 : 0; }
static inline void watchdog_enable(uint32_t ms, bool pause_on_debug) { REQUIRE(ms <= 8388 && pause_on_debug); }
static inline void watchdog_update(void) { feed(); }

static inline uint pio_add_program(PIO pio, const pio_program_t *program) {
    REQUIRE(pio == pio0 && program->length == 12 && program->origin == -1);
    return STAND_IN_FIRST;
}
static inline uint pio_claim_unused_sm(PIO pio, bool required) {
    REQUIRE(pio == pio0 && required);
    return STAND_IN_MACHINE;
}
static inline pio_sm_config pio_get_default_sm_config(void) {
    const pio_sm_config config = {0, 31, 0, 0, 0, true, false, 1.0f};
    return config;
}
static inline void sm_config_set_wrap(pio_sm_config *config, uint first, uint last) {
    config->first = first, config->last = last;
}
static inline void sm_config_set_sideset(pio_sm_config *config, uint bits, bool optional, bool pindirs) {
    REQUIRE(!optional && !pindirs);
    config->sideset = bits;
}
static inline void sm_config_set_sideset_pins(pio_sm_config *config, uint pin) { config->clock = pin; }
static inline void sm_config_set_in_pins(pio_sm_config *config, uint pin) { config->data = pin; }
static inline void sm_config_set_in_shift(pio_sm_config *config, bool right, bool autopush, uint bits) {
    REQUIRE(bits == 32);
    config->shift_right = right, config->autopush = autopush;
}
static inline void sm_config_set_clkdiv(pio_sm_config *config, float divider) { config->divider = divider; }
static inline void pio_gpio_init(PIO pio, uint pin) { REQUIRE(pio == pio0 && pin >= 10 && pin <= 12); }
static inline int pio_sm_set_consecutive_pindirs(PIO pio, uint machine, uint first, uint count, bool out) {
    REQUIRE(pio == pio0 && machine == STAND_IN_MACHINE);
    for (uint pin = first; pin < first + count; pin++) stand_in_outputs |= (uint32_t)out << pin;
    return 0;
}
static inline int pio_sm_init(PIO pio, uint machine, uint first, const pio_sm_config *config) {
    const float rate = 125e6f / config->divider / 128; /* instructions of a frame */
    REQUIRE(pio == pio0 && machine == STAND_IN_MACHINE && first == STAND_IN_FIRST);
    REQUIRE(config->first == first && config->last == first + 11 && config->sideset == 2);
    REQUIRE(config->clock == 10 && config->data == 12 && !config->shift_right && config->autopush);
    REQUIRE(rate > 15999 && rate < 16001 && stand_in_outputs == (1u << 10 | 1u << 11 | 1u << PICO_DEFAULT_LED_PIN));
    return 0;
}
static inline void pio_sm_set_enabled(PIO pio, uint machine, bool enabled) {
    stand_in_running = pio == pio0 && machine == STAND_IN_MACHINE && enabled;
}
static inline uint pio_get_dreq(PIO pio, uint machine, bool is_tx) {
    REQUIRE(pio == pio0 && machine == STAND_IN_MACHINE && !is_tx);
    return STAND_IN_REQUEST;
}

static inline int dma_claim_unused_channel(bool required) { return required ? stand_in_claimed++ : -1; }
static inline dma_channel_config dma_channel_get_default_config(uint channel) {
    const dma_channel_config config = {true, false, 0x3f, channel};
    return config;
}
static inline void channel_config_set_read_increment(dma_channel_config *config, bool on) {
    config->read_increment = on;
}
static inline void channel_config_set_write_increment(dma_channel_config *config, bool on) {
    config->write_increment = on;
}
static inline void channel_config_set_dreq(dma_channel_config *config, uint request) { config->request = request; }
static inline void channel_config_set_chain_to(dma_channel_config *config, uint other) { config->chain_to = other; }
static inline void dma_channel_set_irq0_enabled(uint channel, bool on) { stand_in_dma[channel].interrupt = on; }
static inline void dma_channel_configure(uint channel, const dma_channel_config *config, volatile void *to,
                                         const volatile void *from, uint32_t count, bool start) {
    REQUIRE(!config->read_increment && config->write_increment && config->request == STAND_IN_REQUEST && !start);
    REQUIRE(from == &stand_in_pio.rxf[STAND_IN_MACHINE]);
    stand_in_dma[channel].config = *config;
    stand_in_dma[channel].from = stand_in_dma[channel].to = (unsigned char *)to;
    stand_in_dma[channel].count = count;
}
static inline void dma_channel_start(uint channel) { stand_in_channel = (int)channel; }
static inline bool dma_channel_get_irq0_status(uint channel) { return stand_in_dma[channel].done; }
static inline void dma_channel_acknowledge_irq0(uint channel) { stand_in_dma[channel].done = false; }
static inline void dma_channel_set_write_addr(uint channel, volatile void *to, bool start) {
    REQUIRE(!start);
    stand_in_dma[channel].to = (unsigned char *)to;
}
static inline void irq_set_exclusive_handler(uint number, void (*handler)(void)) {
    REQUIRE(number == DMA_IRQ_0);
    stand_in_handler = handler;
}
static inline void irq_set_enabled(uint number, bool on) { stand_in_enabled = number == DMA_IRQ_0 && on; }

static inline uint32_t save_and_disable_interrupts(void) {
    __disable_irq();
    return 7;
}
static inline void __wfi(void) { __WFI(); }
static inline void restore_interrupts(uint32_t status) {
    REQUIRE(status == 7 && stand_in_enabled && stand_in_running && stand_in_channel >= 0);
    for (interrupts_masked = false; parts_waiting > 0; parts_waiting--) {
        const int channel = stand_in_channel;
        const size_t bytes = stand_in_dma[channel].count * 4;
        REQUIRE(stand_in_dma[channel].to == stand_in_dma[channel].from); /* DMA goes on behind the half otherwise */
        play(stand_in_dma[channel].to, bytes);
        stand_in_dma[channel].to += bytes;
        stand_in_dma[channel].done = stand_in_dma[channel].interrupt;
        stand_in_channel = (int)stand_in_dma[channel].config.chain_to;
        stand_in_handler();
    }
}

#endif
