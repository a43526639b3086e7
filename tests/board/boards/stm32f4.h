/* Stands in for STM32's HAL: what stm32f4.c uses of it, and DMA that fills halves in turn. */
#ifndef STM32F4_H
#define STM32F4_H

#include "played.h"

typedef enum { HAL_OK, HAL_ERROR } HAL_StatusTypeDef;
typedef enum { GPIO_PIN_RESET, GPIO_PIN_SET } GPIO_PinState;
typedef enum { DMA1_Stream3_IRQn = 14 } IRQn_Type;
enum { GPIOA, GPIOB, USART2, SPI2, DMA1_Stream3, IWDG };

enum { GPIO_PIN_2 = 1 << 2, GPIO_PIN_5 = 1 << 5, GPIO_PIN_12 = 1 << 12, GPIO_PIN_13 = 1 << 13, GPIO_PIN_15 = 1 << 15 };
enum { GPIO_MODE_OUTPUT_PP = 1, GPIO_MODE_AF_PP, GPIO_AF5_SPI2 = 5, GPIO_AF7_USART2 = 7 };
typedef struct {
    uint32_t Pin, Mode, Alternate;
} GPIO_InitTypeDef;

enum { RCC_OSCILLATORTYPE_HSI = 2, RCC_HSI_ON = 1, RCC_HSICALIBRATION_DEFAULT = 16, RCC_PLL_ON = 2 };
enum { RCC_PLLSOURCE_HSI = 0, RCC_PLLP_DIV4 = 4, RCC_SYSCLKSOURCE_PLLCLK = 2, RCC_HCLK_DIV2 = 0x1000 };
enum { RCC_CLOCKTYPE_SYSCLK = 1, RCC_CLOCKTYPE_PCLK1 = 4, FLASH_LATENCY_2 = 2, RCC_PERIPHCLK_I2S = 1 };
typedef struct {
    uint32_t PLLState, PLLSource, PLLM, PLLN, PLLP, PLLQ;
} RCC_PLLInitTypeDef;
typedef struct {
    uint32_t OscillatorType, HSIState, HSICalibrationValue;
    RCC_PLLInitTypeDef PLL;
} RCC_OscInitTypeDef;
typedef struct {
    uint32_t ClockType, SYSCLKSource, APB1CLKDivider;
} RCC_ClkInitTypeDef;
typedef struct {
    uint32_t PeriphClockSelection;
    struct {
        uint32_t PLLI2SM, PLLI2SN, PLLI2SR;
    } PLLI2S;
} RCC_PeriphCLKInitTypeDef;

enum { DMA_CHANNEL_0, DMA_PERIPH_TO_MEMORY, DMA_MINC_ENABLE = 0x400, DMA_CIRCULAR = 0x100 };
enum { DMA_PDATAALIGN_HALFWORD = 0x800, DMA_MDATAALIGN_HALFWORD = 0x2000 };
typedef struct {
    uint32_t Channel, Direction, MemInc, PeriphDataAlignment, MemDataAlignment, Mode;
} DMA_InitTypeDef;
typedef struct {
    int Instance;
    DMA_InitTypeDef Init;
    void *Parent;
} DMA_HandleTypeDef;

enum { I2S_MODE_MASTER_RX = 0x300, I2S_STANDARD_PHILIPS = 0, I2S_DATAFORMAT_24B = 3, I2S_CLOCK_PLL = 1 };
typedef struct {
    uint32_t Mode, Standard, DataFormat, AudioFreq, ClockSource;
} I2S_InitTypeDef;
typedef struct {
    int Instance;
    I2S_InitTypeDef Init;
    DMA_HandleTypeDef *hdmarx;
} I2S_HandleTypeDef;
#define __HAL_LINKDMA(handle, field, dma) ((handle)->field = &(dma), (dma).Parent = (handle))

enum { UART_MODE_TX = 8, IWDG_PRESCALER_32 = 3 };
typedef struct {
    int Instance;
    struct {
        uint32_t BaudRate, Mode;
    } Init;
} UART_HandleTypeDef;
typedef struct {
    uint32_t Prescaler, Reload;
} IWDG_InitTypeDef;
typedef struct {
    int Instance;
    IWDG_InitTypeDef Init;
} IWDG_HandleTypeDef;

void DMA1_Stream3_IRQHandler(void);
void HAL_I2S_RxHalfCpltCallback(I2S_HandleTypeDef *);
void HAL_I2S_RxCpltCallback(I2S_HandleTypeDef *);

static uint32_t stand_in_clocks = 0; /* of what is switched on */
static uint32_t stand_in_i2s_clock = 0;
static bool stand_in_interrupt = false;
static unsigned char *stand_in_buffer;
static size_t stand_in_half = 0; /* bytes */
static int stand_in_place = 0;

#define __HAL_RCC_GPIOA_CLK_ENABLE() (stand_in_clocks |= 1u << GPIOA)
#define __HAL_RCC_GPIOB_CLK_ENABLE() (stand_in_clocks |= 1u << GPIOB)
#define __HAL_RCC_USART2_CLK_ENABLE() (stand_in_clocks |= 1u << USART2)
#define __HAL_RCC_SPI2_CLK_ENABLE() (stand_in_clocks |= 1u << SPI2)
#define __HAL_RCC_DMA1_CLK_ENABLE() (stand_in_clocks |= 1u << DMA1_Stream3)

static inline void HAL_Init(void) {}
static inline void HAL_IncTick(void) {}
static inline HAL_StatusTypeDef HAL_RCC_OscConfig(RCC_OscInitTypeDef *oscillator) {
    const RCC_PLLInitTypeDef *pll = &oscillator->PLL;
    return 16000000 / pll->PLLM * pll->PLLN / pll->PLLP == 84000000 ? HAL_OK : HAL_ERROR;
}
static inline HAL_StatusTypeDef HAL_RCC_ClockConfig(RCC_ClkInitTypeDef *clocks, uint32_t latency) {
    return clocks->APB1CLKDivider == RCC_HCLK_DIV2 && latency == FLASH_LATENCY_2 ? HAL_OK : HAL_ERROR;
}
static inline HAL_StatusTypeDef HAL_RCCEx_PeriphCLKConfig(RCC_PeriphCLKInitTypeDef *audio) {
    stand_in_i2s_clock = 16000000 / audio->PLLI2S.PLLI2SM * audio->PLLI2S.PLLI2SN / audio->PLLI2S.PLLI2SR;
    return HAL_OK;
}
static inline void HAL_GPIO_Init(int port, GPIO_InitTypeDef *pins) {
    REQUIRE(stand_in_clocks & 1u << port && pins->Pin);
}
static inline void HAL_GPIO_WritePin(int port, uint32_t pin, GPIO_PinState level) {
    REQUIRE(port == GPIOA && pin == GPIO_PIN_5);
    show(level == GPIO_PIN_SET);
}
static inline HAL_StatusTypeDef HAL_UART_Init(UART_HandleTypeDef *serial) {
    return stand_in_clocks & 1u << serial->Instance ? HAL_OK : HAL_ERROR;
}
static inline HAL_StatusTypeDef HAL_UART_Transmit(UART_HandleTypeDef *serial, uint8_t *text, uint16_t length,
                                                  uint32_t ms) {
    (void)serial, (void)text, (void)length, (void)ms;
    return HAL_OK;
}
static inline HAL_StatusTypeDef HAL_DMA_Init(DMA_HandleTypeDef *dma) {
    const bool of_16_bits = dma->Init.PeriphDataAlignment == DMA_PDATAALIGN_HALFWORD &&
                            dma->Init.MemDataAlignment == DMA_MDATAALIGN_HALFWORD;
    return of_16_bits && dma->Init.Mode == DMA_CIRCULAR && dma->Init.MemInc == DMA_MINC_ENABLE ? HAL_OK : HAL_ERROR;
}
static inline void HAL_NVIC_EnableIRQ(IRQn_Type number) { stand_in_interrupt = number == DMA1_Stream3_IRQn; }
static inline HAL_StatusTypeDef HAL_I2S_Init(I2S_HandleTypeDef *i2s) {
    const uint32_t frame = 64, divider = stand_in_i2s_clock / frame / i2s->Init.AudioFreq;
    return stand_in_i2s_clock == frame * divider * i2s->Init.AudioFreq ? HAL_OK : HAL_ERROR;
}
static inline HAL_StatusTypeDef HAL_I2S_Receive_DMA(I2S_HandleTypeDef *i2s, uint16_t *buffer, uint16_t samples) {
    REQUIRE(i2s->hdmarx && i2s->Init.DataFormat == I2S_DATAFORMAT_24B && i2s->Init.Mode == I2S_MODE_MASTER_RX);
    stand_in_buffer = (unsigned char *)buffer;
    stand_in_half = samples * 4u / 2;
    return HAL_OK;
}
static inline void HAL_DMA_IRQHandler(DMA_HandleTypeDef *dma) {
    (stand_in_place ? HAL_I2S_RxHalfCpltCallback : HAL_I2S_RxCpltCallback)((I2S_HandleTypeDef *)dma->Parent);
}
static inline HAL_StatusTypeDef HAL_IWDG_Init(IWDG_HandleTypeDef *watchdog) {
    return watchdog->Init.Reload <= 0xfff ? HAL_OK : HAL_ERROR;
}
static inline HAL_StatusTypeDef HAL_IWDG_Refresh(IWDG_HandleTypeDef *watchdog) {
    (void)watchdog;
    feed();
    return HAL_OK;
}
static inline void __enable_irq(void) {
    REQUIRE(stand_in_interrupt);
    for (interrupts_masked = false; parts_waiting > 0; parts_waiting--) {
        play(stand_in_buffer + (size_t)stand_in_place * stand_in_half, stand_in_half);
        stand_in_place = 1 - stand_in_place;
        DMA1_Stream3_IRQHandler();
    }
}

#endif
